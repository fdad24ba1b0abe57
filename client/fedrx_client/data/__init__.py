"""From a hospital's table to one typed cohort, with an account of every row dropped."""

from fedrx_client.data.load import LoadResult, load_cohort, load_dealt, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.quality import DataQuality

__all__ = [
    "DataQuality",
    "LoadResult",
    "TableMapping",
    "load_cohort",
    "load_dealt",
    "load_split",
]
