"""VCFs to try: every position of some genes at the reference, and what a test changes in them."""

import gzip
import struct
import zlib

from fedrx_client.data.harmonise.alleles.tables import gene_table

HEADER = "##fileformat=VCFv4.2"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def locus(rsid, genes=("CYP2C9", "CYP2C19", "TPMT", "UGT1A1", "SLCO1B1", "DPYD", "VKORC1")):
    """The locus of an rs number."""
    return next(one for gene in genes for one in gene_table(gene).loci if one.rsid == rsid)


def record(place, genotype, *, ref="", alt="", rsid=".", passed="PASS", info=".", form="GT"):
    """One line; `place` is a locus, or "chr10:94942290" with `ref` and `alt`."""
    if isinstance(place, str):
        chromosome, position = place.split(":")
    else:
        chromosome, position = f"chr{place.chromosome}", str(place.position)
        ref, alt = ref or place.choices[0], alt or ",".join(place.choices[1:])
    cells = [genotype] if isinstance(genotype, str) else list(genotype)
    return "\t".join([chromosome, position, rsid, ref, alt, ".", passed, info, form, *cells])


def reference(gene, changes=None, *, drop=(), samples=1):
    """Lines of a gene, all `0/0` but the rs numbers or positions in `changes`."""
    changes = changes or {}
    lines = []
    for one in gene_table(gene).loci:
        key = one.rsid if one.rsid in changes else one.position
        if not {one.rsid, one.position} & set(drop):
            lines.append(record(one, changes.get(key, ["0/0"] * samples)))
    return lines


def vcf(*lines, samples=("P1",), header=()):
    """The text of a VCF."""
    flat = [line for some in lines for line in ([some] if isinstance(some, str) else some)]
    columns = "\t".join([COLUMNS, *samples])
    return "\n".join([HEADER, *header, columns, *flat]) + "\n"


def bgzip(data, size=200, *, end=True):
    """Pack bytes as bgzip does: small blocks, each with its size, and an empty one at the end."""
    blocks = []
    for start in range(0, len(data), size):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(data[start : start + size]) + packer.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        tail = struct.pack("<II", zlib.crc32(data[start : start + size]), len(data[start:][:size]))
        blocks.append(head + body + tail)
    return b"".join(blocks) + (BGZIP_END if end else b"")


def packed(text, way):
    """A VCF as a file holds it: "plain", "gzip" or "bgzip"."""
    data = text.encode()
    return {"plain": bytes, "gzip": gzip.compress, "bgzip": bgzip}[way](data)
