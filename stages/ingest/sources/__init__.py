"""The kinds of source, one module each: a new kind is a new file and a line here.

A module has `Config` (a `SourceConfig` with its own literal `kind`), `slices(file, config, max_bytes)`, `read(open_raw, file,
part, config)`, which yields records, pairs and damage in the order of the file, and `languages_of(file, config)`: the languages that the
file's records can have, or None where each record may say its own (then a language added to the pipeline reads the file again). Importing one is cheap: its libraries are imported
when it reads.
"""

SOURCES = {
    "text": "stages.ingest.sources.text",
    "jsonl": "stages.ingest.sources.jsonl",
    "parquet": "stages.ingest.sources.parquet",
    "html": "stages.ingest.sources.html",
    "csv": "stages.ingest.sources.delimited",
    "gettext": "stages.ingest.sources.gettext_catalog",
    "mediawiki-i18n": "stages.ingest.sources.mediawiki_i18n",
    "wet": "stages.ingest.sources.wet",
    "warc": "stages.ingest.sources.warc",
    "wikipedia": "stages.ingest.sources.wikipedia",
    "tsv-pairs": "stages.ingest.sources.tsv_pairs",
    "moses": "stages.ingest.sources.moses",
    "tmx": "stages.ingest.sources.tmx",
}
