"""Texts with labels -> rows whose last tokens carry the label's numbers.

{"text": ..., "label": "Positive"}  --layout-->  Labeled  --tokens-->  ids     101 2307 3185 102
                                                                       labels  -    -    -    1

find      which labels there are, read from the records where the YAML does not say
layout    `type: classification`
targets   a record's label as the numbers that stand in a row
tokens    texts -> rows, cut at the side that was asked for
counts    records of each label
batches   rows -> padded forward passes (knows torch)
"""
