import pytest

from igllm_jax.errors import UserError
from igllm_jax.interop import hf_config, hf_decoder, hf_vision
from igllm_jax.interop.adapter_config import read_adapter_config
from igllm_jax.interop.hf_decoder import decoder_config, decoder_to_json
from igllm_jax.interop.hf_vision import vision_config, vision_to_json
from tests.interop import made

LLAMA_1 = {  # as Vicuna-7B v1.3 says it
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 2048,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0,
    "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip


def test_keys_that_old_files_lack_mean_what_the_format_says():
    config = decoder_config(LLAMA_1, "x")
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (32, 128, 10000.0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rope_theta": 5000.0}, 5000.0),
        ({"rope_parameters": {"rope_theta": 7000.0, "rope_type": "default"}}, 7000.0),
        ({"rope_theta": 5000.0, "rope_scaling": None}, 5000.0),
    ],
)
def test_rope_theta_is_read_from_either_place(change, expected):
    assert decoder_config({**LLAMA_1, **change}, "x").rope_theta == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling .* is not supported"),
        (
            {"rope_parameters": {"rope_type": "llama3"}},
            "rope_parameters of type llama3 does not say factor, low",
        ),
        ({"attention_bias": True}, "attention_bias is True; supported: False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: silu"),
        ({"model_type": "mixtral"}, "model_type is 'mixtral'; supported: llama.*, mistral, qwen2, qwen3"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "softcapping is 50.0; supported: "),
        (
            {"model_type": "gemma2", "layer_types": ["sliding_attention"]},
            "full_.* in all 32 layers, or slid",
        ),
        (
            {"model_type": "smollm3", "no_rope_layers": [0, 1]},
            r"no_rope_layers is \[0, 1\]; supported: 1 but for every 4",
        ),
        ({"model_type": "gemma3_text", "sliding_window_pattern": -1}, "sliding_window_pattern is -1; a number of"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True; supported: False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*; supported: full_attention"),
        ({"rope_theta": 1e300}, r"rope_theta is 1e\+300; a number above 0 is expected, from 1e-30 to 1e\+30"),
        ({"rms_norm_eps": 1e-320}, "rms_norm_eps is 1e-320; a number above 0"),
        ({"num_attention_heads": 32, "num_key_value_heads": 7}, "num_heads 32 is not divisible by num_kv_heads 7"),
    ],
)
def test_what_the_decoder_is_not_is_an_error(change, message):
    with pytest.raises(UserError, match=f"here/config.json: .*{message}"):
        decoder_config({**LLAMA_1, **change}, "here/config.json")


TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "r": 128, "lora_alpha": 256, "lora_dropout": 0.05}
READERS = {
    "decoder": (LLAMA_1, lambda config: decoder_config(config, "here/config.json")),
    "vision": (TOWER, lambda config: vision_config(config, None, feature_layer=-2, where="here/config.json")),
    "adapter": (ADAPTER, lambda config: read_adapter_config(config, "here/config.json").lora),
}


@pytest.mark.parametrize(
    ("kind", "key"),
    [*(("decoder", key) for key in hf_decoder.ALWAYS_SAID),
     *(("vision", key) for key in hf_vision.ALWAYS_SAID), ("adapter", "r"), ("adapter", "lora_alpha")],
)  # fmt: skip
def test_no_size_is_assumed_in_a_config_of_its_own(kind, key):
    config, read = READERS[kind]
    read(config)
    with pytest.raises(
        UserError, match=f"here/config.json does not say {key}: take the (adapter_)?config.json that came with"
    ):
        read({name: value for name, value in config.items() if name != key})


def test_a_config_inside_another_leaves_out_what_is_at_its_default():
    text, tower = ({"model_type": "llama", "vocab_size": 32064}, {"model_type": "clip_vision_model", "image_size": 336})
    config = {"text_config": text, "vision_config": tower}
    decoder = decoder_config(config, "x")
    assert (decoder.vocab_size, decoder.width, decoder.rms_norm_epsilon) == (32064, 4096, 1e-6)
    vision = vision_config(config, None, feature_layer=-2, where="x")
    assert (vision.image_size, vision.width) == (336, 768)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("value", [None, "x", 0, -3, 2.5, True, [], {}, [7], 10**30, float("nan"), float("inf")])
def test_a_damaged_value_is_one_line_or_none_that_counts(kind, value):
    """Whatever stands at a key, reading ends in a config or in one line that names file and key."""
    config, read = READERS[kind]
    extra = {"rope_theta", "rope_parameters", "rope_scaling", "head_dim", "num_key_value_heads", "init_lora_weights"}
    for key in {*config, *extra, "vision_config", "text_config"}:
        try:
            read({**config, key: value})
        except UserError as error:
            assert str(error).startswith("here/config.json") and "\n" not in str(error), key


def test_starts_that_change_the_base_are_an_error():
    with pytest.raises(UserError, match="init_lora_weights is 'pissa_niter_4', which changed the weights under"):
        read_adapter_config({**ADAPTER, "init_lora_weights": "pissa_niter_4"}, "x")
    assert read_adapter_config({**ADAPTER, "init_lora_weights": "gaussian"}, "x").lora.rank == 128


def test_configs_come_back():
    config = made.model()
    written = decoder_to_json(config.decoder, vocab_size=made.VOCAB, dtype="float32")
    read = decoder_config(written, "x")
    assert {**vars(read), "remat": "none"} == vars(config.decoder)
    tower = vision_to_json(config.vision)
    means = {"image_mean": config.vision.image_mean, "image_std": config.vision.image_std}
    read_tower = vision_config(tower, means, feature_layer=-1, where="x")
    assert vars(read_tower) == {**vars(config.vision), "num_layers": 2, "feature_layer": -1}
    assert read_adapter_config(hf_config.lora_to_json(config.lora, base_model="b"), "x").lora == config.lora


def test_rank_stabilised_lora_keeps_its_scale():
    config = read_adapter_config({"r": 16, "lora_alpha": 8, "use_rslora": True}, "x").lora
    assert config.alpha / config.rank == 8 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; supported: LORA"),
        ({"lora_ga_config": {"direction": "ArB2r"}}, "lora_ga_config is .* more than plain LoRA"),
        ({"alora_invocation_tokens": [3, 5]}, "alora_invocation_tokens is .3, 5., which makes it more than plain LoRA"),
        ({"a_key_of_tomorrow": "x"}, "a_key_of_tomorrow is 'x'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'; supported: none"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, trained whole beside LoRA"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern.'q_proj'. is -1; a whole number"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern has the pattern '.', which can't be read"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform is ..1..; numbers of layers"),
        ({"r": 10**400}, "r is 1000"),
    ],
)
def test_other_adapters_than_plain_lora_are_an_error(change, message):
    with pytest.raises(UserError, match=message):
        read_adapter_config({"r": 4, "lora_alpha": 8, **change}, "x")


def test_the_feature_layer_is_the_configs():
    assert hf_config.feature_layer_of({"mm_vision_select_layer": -3}, "x") == -3
    assert hf_config.feature_layer_of({"vision_config": {}}, "x") == -2
    assert hf_config.feature_layer_of({"vision_config": {}, "vision_feature_layer": -1}, "x") == -1
    with pytest.raises(UserError, match="vision_feature_layer is \\[-2, -5\\]"):
        hf_config.feature_layer_of({"vision_config": {}, "vision_feature_layer": [-2, -5]}, "x")
    with pytest.raises(UserError, match="mm_vision_select_feature is 'cls_patch'"):
        hf_config.feature_layer_of({"mm_vision_select_layer": -2, "mm_vision_select_feature": "cls_patch"}, "x")


@pytest.mark.parametrize(
    ("config", "preprocessor", "expected"),
    [
        ({}, None, "pad"),
        ({"image_aspect_ratio": "pad"}, None, "pad"),
        ({"image_aspect_ratio": "square"}, {"do_pad": True}, "square"),
        ({"vision_config": {}}, None, "pad"),
        ({"vision_config": {}}, {"do_pad": True}, "pad"),
        ({"vision_config": {}}, {"image_mean": [0.5] * 3}, "square"),
    ],
)
def test_how_images_are_made_square_is_the_configs(config, preprocessor, expected):
    assert hf_config.aspect_ratio_of(config, preprocessor, "x") == expected


def test_other_ways_to_make_images_square_are_an_error():
    with pytest.raises(UserError, match="here: image_aspect_ratio is 'anyres'; supported: pad, square"):
        hf_config.aspect_ratio_of({"image_aspect_ratio": "anyres"}, None, "here")


def test_defaults_are_transformers_own():
    transformers = pytest.importorskip("transformers")
    named = {name: family.architecture.replace("ForCausalLM", "Config") for name, family in hf_decoder.FAMILIES.items()}
    towers = {name: tower.architecture for name, tower in hf_vision.TOWERS.items()}
    towers = {name: f"{kind.removesuffix('Model')}Config" for name, kind in towers.items()}
    for ours, theirs in (
        *((family.defaults, getattr(transformers, named[name])()) for name, family in hf_decoder.FAMILIES.items()),
        *((tower.defaults, getattr(transformers, towers[name])()) for name, tower in hf_vision.TOWERS.items()),
        (hf_config.LLAVA_DEFAULTS, transformers.LlavaConfig()),
    ):
        found = theirs.to_dict()
        skipped = {"rope_theta", "rope_scaling", "rope_parameters", "num_key_value_heads", "head_dim"}
        compared = (set(ours) & set(found)) - skipped
        assert {key: found[key] for key in compared} == {key: ours[key] for key in compared}
    assert transformers.LlamaConfig().rope_parameters["rope_theta"] == hf_decoder.LLAMA_DEFAULTS["rope_theta"]


def test_ranks_and_scales_of_single_modules():
    """As peft picks them: the first pattern that matches the name's end; a rank of zero is none at all."""
    patterns = {"rank_pattern": {"k_proj": 0, r"layers\.2\.self_attn\.q_proj": 2}, "alpha_pattern": {"q_proj": 6}}
    found = read_adapter_config({"r": 4, "lora_alpha": 8, "layers_to_transform": [0, 2], **patterns}, "x")
    assert not found.is_uniform
    lora = {
        (layer, name): found.of(f"model.layers.{layer}.self_attn.{name}_proj", layer)
        for layer in (0, 1, 2)
        for name in "qkv"
    }
    assert [lora[0, name].rank for name in "qkv"] == [4, 0, 4]
    assert [lora[1, name].rank for name in "qkv"] == [0, 0, 0]
    assert [lora[2, name].rank for name in "qkv"] == [2, 0, 4]
    assert (lora[0, "q"].alpha, lora[2, "q"].alpha, lora[2, "v"].alpha) == (6, 6, 8)
