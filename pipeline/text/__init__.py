"""Text: languages, normalise, characters, words, hashing, identify, measures, sentences, packing, tokenizer (door to sentencepiece)."""
