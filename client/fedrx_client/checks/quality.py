"""A look at a site's data as a check: loads the cohort, and holds it against every rule."""

from datetime import date
from pathlib import Path

from fedrx_client.checks.study import CheckLine
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import pipeline_digest
from fedrx_client.data.quality.findings import QualityReport
from fedrx_client.data.quality.reference import ConsortiumSummary
from fedrx_client.data.quality.report import look_at
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError, MisuseError
from fedrx_protocol.study.study import Study
