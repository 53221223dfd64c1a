"""ONNX models as torch models, and back: read, run, rewritten node by node, and written.

``model_file`` and ``tensors`` read a model, ``graph`` and ``shapes`` say what is in it, ``layers`` reads
its nodes as convolutions, ``execution_order``, ``operators`` and ``onnxruntime_segments`` run what stands
between them, and ``network`` is all of that as a torch module. ``nodes`` makes nodes of an expression,
``rewriting`` puts them in the place of others, and ``writing`` writes the model. Graphs are held and
edited as ``onnx_ir`` has them; its packages are an extra, asked for where they are needed.
"""
