"""Tests of single operators that come with ONNX: a model, inputs and the outputs that they make."""

import pathlib

import onnx
from onnx import numpy_helper

FOLDER = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"

# Of different operators and types, with scalars, strings, several outputs, and shapes that depend on values.
CHOSEN = [
    "test_add", "test_add_int16", "test_ai_onnx_ml_label_encoder_string_int", "test_and3d",
    "test_argmax_default_axis_example", "test_averagepool_2d_ceil", "test_basic_conv_with_padding",
    "test_batchnorm_example", "test_bitcast_float64_to_int64", "test_bitshift_left_uint64",
    "test_bitwise_and_i16_3d", "test_bitwise_not_3d", "test_blackmanwindow", "test_cast_DOUBLE_to_FLOAT16",
    "test_cast_FLOAT16_to_DOUBLE", "test_clip", "test_compress_0", "test_constantofshape_float_ones",
    "test_convinteger_without_padding", "test_cumsum_1d_int32_exclusive", "test_det_2d",
    "test_dropout_default_mask", "test_dynamicquantizelinear", "test_einsum_inner_prod", "test_equal_int16",
    "test_expand_dim_changed", "test_gather_1", "test_gemm_all_attributes", "test_identity",
    "test_qlinearconv", "test_quantizelinear_axis", "test_reduce_max_bool_inputs",
    "test_regex_full_match_email_domain", "test_resize_downsample_scales_cubic", "test_reversesequence_batch",
    "test_rnn_seq_length", "test_scan9_scalar", "test_scatternd",
    "test_sce_NCd1_mean_weight_negative_ii_log_prob", "test_shape", "test_size", "test_slice",
    "test_split_1d_uneven_split_opset18", "test_string_concat_broadcasting", "test_string_split_basic",
    "test_strnormalizer_export_monday_casesensintive_nochangecase", "test_tile", "test_top_k",
    "test_tril_neg", "test_unique_sorted_with_axis", "test_where_long_example", "test_xor3d",
]


def load(name):
    return onnx.load(FOLDER / name / "model.onnx")


def recorded(name):
    """Inputs and outputs by name."""
    graph = load(name).graph
    data = FOLDER / name / "test_data_set_0"

    def read(kind, values):
        return {value.name: numpy_helper.to_array(onnx.load_tensor(data / f"{kind}_{index}.pb"))
                for index, value in enumerate(values)}

    return read("input", graph.input), read("output", graph.output)
