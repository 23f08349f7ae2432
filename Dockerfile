# The project with everything that a run in a bucket needs, at the releases of constraints.txt:
#   docker build --build-arg BACKEND=cpu|cuda|tpu --tag igllm:cpu .
#   docker run --rm igllm:cpu train --config=tiny:task=clevr --workdir gs://my-bucket/run
# cuda needs NVIDIA's driver on the host (docker run --gpus all); CUDA itself comes with JAX's wheels. The libtpu of
# constraints.txt is that of plans; JAX names its own.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG BACKEND=cpu
WORKDIR /igllm
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY igllm_jax ./igllm_jax
COPY configs ./configs
COPY tools ./tools
RUN case "$BACKEND" in \
    cpu) extras=buckets ;; \
    cuda | tpu) extras="$BACKEND,buckets" ;; \
    *) echo "error: BACKEND is cpu, cuda or tpu, not $BACKEND" >&2 && exit 2 ;; \
    esac \
    && sed -i '/^libtpu==/d' constraints.txt \
    && python -m pip install --no-cache-dir --no-compile --constraint constraints.txt ".[$extras]"
RUN useradd --create-home --uid 1000 igllm
USER 1000
WORKDIR /home/igllm
ENTRYPOINT ["python", "-u", "-m", "igllm_jax"]
CMD ["--help"]
