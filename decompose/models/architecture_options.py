"""Check the options of an architecture that a file names.

A file is opened by whoever was given it. What its header says of the architecture builds layers and
nothing else: what could read another file or ask a host for one (``weights_backbone``,
``checkpoint_path``) is not in the list, and numbers are of a size that layers have.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from decompose.utils.errors import DecomposeError

if TYPE_CHECKING:
    from decompose.models.architectures import Architecture

_OPTIONS = frozenset(
    [
        "act_layer",
        "aa_layer",
        "activation_dropout",
        "attention_dropout",
        "attn_drop_rate",
        "attn_layer",
        "aux_logits",
        "aux_loss",
        "avg_down",
        "base_width",
        "batch_norm_epsilon",
        "block_sizes",
        "bn_eps",
        "bn_momentum",
        "bn_size",
        "box_batch_size_per_image",
        "box_bg_iou_thresh",
        "box_detections_per_img",
        "box_fg_iou_thresh",
        "box_nms_thresh",
        "box_positive_fraction",
        "box_score_thresh",
        "cardinality",
        "channels",
        "class_token",
        "conv_bias",
        "conv_mlp",
        "depth",
        "depths",
        "detections_per_img",
        "dilated",
        "dim_feedforward",
        "dims",
        "drop_block_rate",
        "drop_path",
        "drop_path_rate",
        "drop_rate",
        "dropout",
        "dropout_prob",
        "dynamic_img_pad",
        "dynamic_img_size",
        "embed_dim",
        "embed_dims",
        "fc_norm",
        "fg_iou_thresh",
        "final_norm",
        "fix_stem",
        "global_pool",
        "groups",
        "growth_rate",
        "head_dropout",
        "head_hidden_size",
        "head_init_scale",
        "heads",
        "hidden_dim",
        "image_size",
        "img_size",
        "in_chans",
        "in_channels",
        "init_values",
        "init_weights",
        "init_channels",
        "kernel_size",
        "layer_scale_init_value",
        "layers",
        "ls_init_value",
        "max_size",
        "memory_efficient",
        "min_size",
        "mlp_dim",
        "mlp_ratio",
        "nms_thresh",
        "norm_eps",
        "norm_layer",
        "num_blocks",
        "num_classes",
        "num_features",
        "num_heads",
        "num_init_features",
        "num_keypoints",
        "num_layers",
        "num_mlp_heads",
        "num_reg_tokens",
        "out_channels",
        "output_stride",
        "pad_type",
        "patch_size",
        "pool_size",
        "positive_fraction",
        "pos_embed",
        "pre_norm",
        "proj_drop_rate",
        "qk_norm",
        "qkv_bias",
        "reduced_tail",
        "reg_tokens",
        "replace_stride_with_dilation",
        "round_nearest",
        "rpn_anchor_generator_scales",
        "rpn_batch_size_per_image",
        "rpn_bg_iou_thresh",
        "rpn_fg_iou_thresh",
        "rpn_nms_thresh",
        "rpn_post_nms_top_n_test",
        "rpn_post_nms_top_n_train",
        "rpn_pre_nms_top_n_test",
        "rpn_pre_nms_top_n_train",
        "rpn_score_thresh",
        "score_thresh",
        "size",
        "stem_chs",
        "stem_pool",
        "stem_type",
        "stem_width",
        "stochastic_depth_prob",
        "topk_candidates",
        "trainable_backbone_layers",
        "transform_input",
        "use_abs_pos_emb",
        "width",
        "width_factor",
        "width_mult",
        "width_per_group",
        "widths",
        "window_size",
        "zero_init_last",
        "zero_init_residual",
    ]
)
"""Options of builders in torchvision and timm."""

_WORD = re.compile(r"[A-Za-z0-9_]{0,64}")

_LARGEST = 2**20
"""Largest number, of classes for example."""

_DEEPEST = 1000
"""Largest number of layers, blocks or entries of a list."""

_COUNTS = frozenset({"depth", "depths", "layers", "num_layers", "num_blocks", "block_sizes"})


def require_harmless(architecture: Architecture) -> None:
    """Check that an architecture that a file names builds layers and does nothing else.

    Args:
        architecture: parsed.

    Raises:
        DecomposeError: it has an option that a file may not name, or a value no layer has.
    """
    for key, value in architecture.options.items():
        if key not in _OPTIONS:
            raise DecomposeError(
                f"{architecture}: a file may not name the option {key!r}; give the architecture "
                "yourself (--arch, or load(path, model))"
            )
        largest = _DEEPEST if key in _COUNTS else _LARGEST
        if not _is_moderate(value, largest):
            raise DecomposeError(f"{architecture}: {key} is out of bounds")


def _is_moderate(value: Any, largest: int) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= largest
    return (
        isinstance(value, tuple | list)
        and len(value) <= _DEEPEST
        and all(_is_moderate(part, largest) for part in value)
    )
