"""xlm-pipeline: raw text in about 100 languages in, a cross-lingual language model with its evidence out.

Engine, bottom to top: errors, failpoint < archives < config, storage, artifacts < manifest, cluster, tracking < units < stage < dag < runner < cli.
Library: text, model < training < tasks. The two meet only in the `stages` package.
"""
