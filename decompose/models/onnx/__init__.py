"""Read ONNX models as torch modules, run them, and write them back with rewritten nodes.

``model_file`` and ``tensors`` read a model, ``graph`` and ``shapes`` inspect it, ``layers`` reads
its nodes as convolutions, ``execution_order``, ``operators`` and ``onnxruntime_segments`` run the nodes
between them, and ``module`` is all of it as a torch module. ``expression_nodes`` makes nodes of an
expression, ``rewriting`` replaces nodes by them, and ``writing`` writes the model. Graphs are held and
edited by ``onnx_ir``; its packages are an extra, imported where they are needed.
"""
