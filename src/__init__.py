"""Measure how a machine runs deep neural networks, and explain it with rooflines.

Data flows one way::

    datasheets -> data/chips.csv -> chips ----------\\
    torch models -> workload (meta device) ----------+-> metrics, predict -> figures, findings -> chapters
    this machine -> ceilings, benchmark, breakdown --/

Measuring modules write raw samples and derive nothing; analysis reads tables and never measures.
"""
