"""Time of calling named alleles, as a ratio to reading the file: `python benchmarks/genotypes.py`.

Plain is cyvcf2 (htslib), which reads every record and unpacks its genotypes and does nothing with
them. Own seconds on the processor, so that others on the machine count less; both in turns, and
the median of each. The memory is the most that the process held, for a short and a long file.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cyvcf2

from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table
from fedrx_client.data.readers.genotypes import call_genotypes

SAMPLES = 100
RECORDS = 100_000
TURNS = 5
HEADER = "##fileformat=VCFv4.2\n##FORMAT=<ID=GT,Number=1,Type=String,Description=Genotype>\n"


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def write(path: Path, samples: int, records: int) -> None:
    """Write every position of every gene, and so many records between them, by position."""
    loci = [locus for gene in GENES for locus in gene_table(gene).loci]
    chromosomes = list(dict.fromkeys(locus.chromosome for locus in loci))
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(HEADER)
        file.writelines(f"##contig=<ID=chr{name}>\n" for name in chromosomes)
        names = "\t".join(f"s{i}" for i in range(samples))
        file.write(f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}\n")
        for name in chromosomes:
            own = {one.position: one for one in loci if one.chromosome == name}
            first, count = min(own) - 1000, records // len(chromosomes)
            places = sorted({*own, *range(first, first + 37 * count, 37)})
            for place in places:
                locus = own.get(place)
                ref, *alts = locus.choices if locus else ("N", "T")
                cells = ("0/1" if (place + i) % 17 == 0 else "0/0" for i in range(samples))
                fixed = f"chr{name}\t{place}\t.\t{ref}\t{','.join(alts)}\t.\tPASS\t.\tGT"
                file.write("\t".join([fixed, *cells]) + "\n")


def plain(path: Path) -> None:
    for record in cyvcf2.VCF(str(path)):
        record.genotype.array()


def peak_mib(path: Path) -> float:
    """Measure the most memory of a process that calls one file."""
    program = (
        "import sys, resource; from fedrx_client.data.readers.genotypes import call_genotypes; "
        "call_genotypes([sys.argv[1]]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True
    )
    return int(ran.stdout) / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        panel, long = Path(folder) / "panel.vcf.gz", Path(folder) / "long.vcf.gz"
        write(panel, SAMPLES, 0)
        write(long, 1, RECORDS)
        for name, path in (("panel of 100 samples", panel), (f"{RECORDS} records", long)):
            call_genotypes([path])
            own, other = [], []
            for _ in range(TURNS):
                own.append(seconds(lambda path=path: call_genotypes([path])))  # type: ignore[misc]
                other.append(seconds(lambda path=path: plain(path)))  # type: ignore[misc]
            ratio = median(own) / median(other)
            print(f"{name}: {median(own):.2f} s, {ratio:.1f} times reading it with cyvcf2")
        few = Path(folder) / "few.vcf.gz"
        write(few, 1, RECORDS // 100)
        print(f"peak memory: {peak_mib(few):.0f} MiB of {RECORDS // 100} records, ", end="")
        print(f"{peak_mib(long):.0f} MiB of {RECORDS}")


if __name__ == "__main__":
    main()
