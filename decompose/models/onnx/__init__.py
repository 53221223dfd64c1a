"""ONNX models as networks, and back: read, run, rewritten node by node, and written.

``files`` and ``external`` read a model, ``graph`` and ``shapes`` tell what is in it, ``layers`` takes
its convolutions out, ``schedule``, ``operators`` and ``segments`` run what stands between them, and
``network`` is all of that as a torch module. ``nodes`` makes nodes of an expression, ``rewriting`` puts
them in the place of others, and ``writing`` writes the model. The ``onnx`` package is an extra, asked
for where it is needed.
"""
