"""Models of others, to see how much of their attention is found and whether the numbers are right.

``definitions`` and ``packaged`` are tables of models, ``exports`` makes ONNX files of the former,
``survey`` compiles and compares one file, ``page`` writes what was found.
"""
