"""Card: `card.json`, what a corpus held and what became of it. All figures are integers; shares are in 1/10,000; places and languages are sorted.

edges         bucket borders: `characters`, `confidence` (1/10,000), `cluster_size`; a bucket holds edge[i] <= x < edge[i + 1], the last one all above
all, languages.<code>       one row each:
    in, kept, dropped.<reason>, quarantined.<reason>, gained, lost      records from the first file to the last decision: in + gained - lost = the others
    bytes_in, characters_in                     of the text as read (UTF-8 bytes, code points)
    characters_cleaned, words_in                after cleaning, before any document is dropped (words as `pipeline.text.measures` counts them)
    bytes_kept, characters_kept, words_kept     of kept documents without their dropped lines; held-out ones included
    heldout, dropped_lines                      kept documents that are held out; lines taken out of kept documents
    dropped_characters.<reason>                 after cleaning, of the documents that a decision dropped
    duplicate_share, near_duplicate_share       of the documents that were decided on
    decided                                     documents that a decision was made on
    clusters                                    clusters of duplicates by size
    lengths, lengths_kept                       documents by characters after cleaning; those kept
    confidence, confidence_other                documents by confidence of identification: as the language they are labelled with, as another
    unidentified, identified_as.<code>          documents without an identified language; those identified as another, the most frequent
    licences.<name>                             records read, by licence; "" where none is stated
pairs.all, pairs.languages.<a-b>                the same of bitext, as far as it is measured; lengths count both sides
relabelled.<from>.<to>                          documents whose language a stage changed
samples.documents.<reason>, samples.pairs.<reason>      what was dropped: id, lang, source, offset, text cut short (text_a and text_b of a pair)
sources.<number>                                files, bytes as stored, bytes damaged, quarantined.<reason>
files, pairs.files                              number of files that gave text, and the largest with records and bytes of text
stages, pairs.stages                            one ledger a stage that the text went through, in sum
"""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

CARD_FILE = "card.json"

CARD = Artifact("card", "what a corpus held, and what became of it")
