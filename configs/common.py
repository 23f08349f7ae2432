"""Every key of a run, with the reference's settings at full size (CLIP ViT-L/14-336 and Vicuna-7B)."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The complete config; the task's own file changes a few of these."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32  # images per step, over all devices
    config.task = "clevr"
    config.head = "tanh_mlp_gelu"  # none (numbers as text) | linear | tanh_mlp_gelu
    config.rotation_rep = ""  # euler | euler_int | aa | 6d | quat; empty where the task has one way only

    config.tokenizer = ConfigDict()
    config.tokenizer.path = ""  # tokenizer.model or tokenizer.json, or the folder of one; empty: the one in model.base
    # numbers' token; auto: 数 where it is one piece of the vocabulary, else a token that is added | piece | added
    config.tokenizer.number_token = "auto"  # noqa: S105
    config.tokenizer.train_vocab_size = 0  # > 0: train a small one on the task's own text at set-up

    config.data = data()
    config.model = model()

    config.optim = optim()
    config.train = train()
    config.eval = evaluation()
    config.mesh = ConfigDict()
    config.mesh.layout = "train"  # a row of sharding.LAYOUTS
    config.mesh.slices = 1  # TPU slices (or hosts) that only a network joins; data is split over them first
    config.mesh.data = 1
    config.mesh.fsdp = -1  # what is left
    config.mesh.tensor = 1
    return config.lock()  # a key that does not stand here is a typo


def data() -> ConfigDict:
    """Where the examples come from and how they look."""
    data = ConfigDict()
    for split in ("train", "val"):
        data[split] = ConfigDict()
        data[split].images = ""  # TAR (also gs://, s3://) | FOLDER | 2d.npz:SPLIT | tfds:NAME/SPLIT (NAME may be gs://)
        data[split].labels = ""  # LABELS.json | 2d.npz:SPLIT
        data[split].num_samples = 0  # the first N; 0: all
    data.val_sets = ()  # several instead of data.val: (("val_ID", images, labels), ("val_OOD", images, labels), ...)
    data.sources = ()  # a mixture: ((images, labels, weight), (images, weight), ...); empty: data.train alone
    data.image_size = 336
    data.image_aspect_ratio = "pad"  # pad | square
    data.image_mean = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
    data.image_std = (0.26862954, 0.26130258, 0.27577711)
    data.prompt = "vicuna_v1"
    data.max_length = 2048  # tokens with the image
    data.shuffle_attributes = True
    data.use_synonyms = True
    data.rotation_unit = "deg"  # of CLEVR's labels
    data.buckets = 4  # compiled row lengths
    data.num_workers = 4
    data.prefetch = 4  # batches
    data.cache = ""  # a folder for decoded images
    data.pixels = "exact"  # exact | legacy (16 bits clipped at 255, hidden colours show: runs of before)
    data.pixel_range = ()  # (black, white) of images of 32-bit or float numbers, which are refused without it
    data.exif = "apply"  # apply | ignore: whether an image is turned as its EXIF data say
    data.max_image_side = 8192  # pixels; larger images are refused; 0: no limit
    data.max_image_aspect = 32.0  # long side over short side; 0: no limit
    data.max_image_pixels = 67_108_864  # 0: no limit
    data.on_bad_sample = "error"  # error | skip: what an image that cannot be read does
    data.augment = ConfigDict()  # how training images are varied; 0: not
    data.augment.brightness = 0.0  # up to this share more or less
    data.augment.contrast = 0.0
    data.augment.color = 0.0  # saturation, and each of red, green and blue
    data.augment.noise = 0.0  # standard deviation, up to this share of white
    data.augment.blur = 0.0  # standard deviation, up to so many pixels
    data.augment.flip = False  # mirror image and scene at every second visit; for languages that say how
    data.augment.shift = 0.0  # move by up to this share of the side; for languages whose code does not depend on it
    data.augment.crop = 0.0  # leave out up to this share of the side, and enlarge the rest; for languages alike
    data.augment.jpeg = 0  # quality, from here to 100
    data.max_bad_share = 0.01  # with skip: of the data set's images, above which the run ends all the same
    return data


def model() -> ConfigDict:
    """ViT-L/14-336, linear projector, Vicuna-7B v1.3 (LLaMA-1), LoRA on every projection of every layer."""
    model = ConfigDict()
    model.base = ""  # a folder that tools/convert_weights.py made; empty: random initialisation
    model.start_from = ""  # RUN[:STEP] or such a folder: where what trains begins, as far as it fits
    model.dtype = "bfloat16"  # of the computation
    model.frozen_dtype = "bfloat16"  # in which frozen weights are kept
    model.projector = "linear"  # linear | mlp2x_gelu

    model.vision = vision()
    # a tower whose features stand beside the first's, patch by patch (Prismatic); its image is the same, resized
    model.second_vision = ConfigDict(model.vision)
    model.second_vision.width = 0  # there is none
    model.second_vision.image_mean = (0.5, 0.5, 0.5)
    model.second_vision.image_std = (0.5, 0.5, 0.5)
    model.decoder = decoder()
    model.lora = ConfigDict()
    model.lora.rank = 128
    model.lora.alpha = 256.0
    model.lora.dropout = 0.05
    model.lora.dropout_kind = "hash"  # hash | threefry
    return model


def vision() -> ConfigDict:
    """CLIP ViT-L/14-336."""
    vision = ConfigDict()
    vision.image_size = 336
    vision.patch_size = 14
    vision.width = 1024
    vision.num_layers = 24
    vision.num_heads = 16
    vision.mlp_width = 4096
    vision.layer_norm_epsilon = 1e-5
    vision.activation = "quick_gelu"
    vision.feature_layer = -2
    vision.class_token = True
    vision.registers = 0  # DINOv2's
    vision.pre_norm = True
    vision.patch_bias = False
    vision.layer_scale = False
    vision.position_grid = 0  # positions on a side of the base's table, where image_size is not the base's
    vision.position_resize = "bicubic"  # bicubic | bicubic_antialias
    return vision


def decoder() -> ConfigDict:
    """Vicuna-7B v1.3 (LLaMA-1)."""
    decoder = ConfigDict()
    decoder.vocab_size = 32_000
    decoder.width = 4096
    decoder.num_layers = 32
    decoder.num_heads = 32
    decoder.num_kv_heads = 32
    decoder.head_dim = 128
    decoder.mlp_width = 11_008
    decoder.rms_norm_epsilon = 1e-6
    decoder.rope_theta = 10_000.0
    decoder.rope_scaling = ()  # | (factor,): linear | (factor, low, high, positions): Llama 3
    decoder.qkv_bias = False  # Qwen 2
    decoder.qk_norm = False  # Qwen 3, Gemma 3
    decoder.activation = "silu"  # silu | gelu_pytorch_tanh (Gemma)
    decoder.window = 0  # positions that a local layer sees (Mistral 0.1, Gemma); 0: all layers see all
    decoder.global_every = 0  # every so many layers one sees all (Gemma); 0: none does
    decoder.local_rope_theta = 0.0  # of local layers (Gemma 3); 0: rope_theta
    decoder.nope_every = 0  # every so many layers one knows no positions (SmolLM3); 0: all do
    decoder.query_scalar = 0.0  # what scores are divided by the root of (Gemma); 0: head_dim
    decoder.attention_softcap = 0.0  # Gemma 2; 0: none
    decoder.logit_softcap = 0.0  # Gemma 2; 0: none
    decoder.unit_offset = False  # norms keep their scale less 1 (Gemma)
    decoder.post_norms = False  # what attention and MLP add is normalised (Gemma 2, 3)
    decoder.scaled_embedding = False  # by the root of width (Gemma)
    decoder.tie_embeddings = False
    decoder.number_row = -1  # an added number token, whose rows train by themselves; set where one is added
    decoder.attention = "xla"  # xla | chunked | cudnn (GPU) | splash (TPU)
    decoder.remat = "full"  # none | elementwise | dots | qkvres | qkvctx | full | qkv+low+gate_up@host: tensors
    return decoder


def optim() -> ConfigDict:
    """What trains, and how fast."""
    optim = ConfigDict()
    optim.trainable = "lora"  # what trains: a table of igllm_jax/training/optim.py
    optim.lr = 2e-5  # LoRA, or the whole base where that trains
    optim.projector_lr = 2e-5
    optim.float_head_lr = 2e-4
    optim.warmup = 0.03  # share of the steps, in [0, 1]
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.epsilon = 1e-8
    optim.weight_decay = 0.0
    optim.clip_norm = 1.0  # of the gradient over all groups; 0: not clipped
    optim.ema_decay = 0.0  # of averages of what trains, such as 0.999; 0: none are kept
    optim.accumulate = 1  # micro-batches per step
    return optim


def train() -> ConfigDict:
    """How long, and what is written meanwhile."""
    train = ConfigDict()
    train.num_steps = 40_000
    train.float_weight = 1.0
    train.loss_chunk = 128  # answer positions whose logits exist at once
    train.log_every = 10
    train.checkpoint_every = 500
    train.keep_checkpoints = 2  # the last N, and the best besides
    train.tensorboard = True  # where tensorboardX is installed
    train.wandb = False
    return train


def evaluation() -> ConfigDict:
    """What held-out scenes are asked meanwhile."""
    evaluation = ConfigDict()
    evaluation.loss_every = 100  # 0: never
    evaluation.loss_samples = 256  # held-out examples per loss
    evaluation.generate_every = 2000  # 0: never
    evaluation.generate_samples = 32
    evaluation.max_new_tokens = 1024
    # loss, or a scene metric of the generated sample such as l2; smaller is better; of one of val_sets: val_OOD/l2
    evaluation.best_metric = "loss"
    evaluation.patience = 0  # ends after so many measurements of it in a row without a new best; 0: never
    return evaluation
