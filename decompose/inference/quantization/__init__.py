"""Quantise models to INT8 with the engines' own quantisers.

- ``post_training``: ``quantize``: prepare, quantise, repair, keep in float what loses most.
- ``preparation``: BatchNorm folded and factors equalised, exactly, before anything is quantised.
- ``quantizers``: what every engine's quantiser does, and the choice among them.
- ``onnxruntime_quantizer``, ``openvino_quantizer``: the two.
- ``graphs``: which nodes of an ONNX graph belong to which layer; means of what they read.
- ``bias_correction``: biases that make up for the mean error of rounded weights.
- ``saturation``: whether this processor's INT8 products are exact.
"""
