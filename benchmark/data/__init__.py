"""A pair: its file, its model's files and its images, from the Hub or a folder.

`pair` reads pair files (`load_pair`), `references` deals the images out in four parts (`load_references`), `duplicates`
groups near-copies, `image_cache` decodes once, `fits` keeps what is fitted once, `nearest` is the exact search.
`hub`, `model_files`, `dataset_files` and `pipeline_folder` know where files are and which may be read. May import words
only; `stats` stands beside it.

    >>> from sidebench.benchmark.data.pair import load_pair
    >>> pair = load_pair("digits")
    >>> pair.control, pair.model.family
    ('iid', 'pixel')
"""
