"""What `benchmarks/claims.py --claim real_weights` trains, at 224 pixels on one core: LoRA and the projector between
SmolLM2-135M-Instruct and DINOv2-S/14, which stay frozen. `configs/real_weights.py:head=none`.

Whether they can learn 16 images by heart, and at which rate, is asked by

    igllm train --config=configs/real_weights.py --workdir DIR --config.model.base=real/base \
        --config.data.train.num_samples=16 --config.train.num_steps=160
"""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "clevr"
    config = bases.set_argument(config, ",".join(filter(None, ["base=dinov2_s+smollm2_135m", argument])), ("head",))
    root = "data/clevr_single"
    config.data.train.images, config.data.train.labels = f"{root}/images/train.tar", f"{root}/labels/train.json"
    config.data.val.images, config.data.val.labels = f"{root}/images/val_ID.tar", f"{root}/labels/val_ID.json"
    # what little time there is goes into the image: a short prompt, one order, one name for each attribute
    config.data.prompt = "short"
    config.data.shuffle_attributes = config.data.use_synonyms = False
    config.data.num_workers = 0
    config.data.buckets = 1
    config.batch_size = 2
    config.model.dtype = config.model.frozen_dtype = "float32"
    config.model.decoder.remat = "elementwise"
    config.model.lora.rank, config.model.lora.alpha, config.model.lora.dropout = 16, 32.0, 0.0
    config.optim.lr = config.optim.projector_lr = config.optim.float_head_lr = 1e-3
    config.train.float_weight = 0.25  # places are numbers up to 3
    config.train.log_every = 10
    config.train.num_steps = 300
    config.train.checkpoint_every = 50
    config.eval.loss_every = config.eval.generate_every = 0
    return config
