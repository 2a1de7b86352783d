# One image for every Python process; the command is the argument:
#
#   docker build --tag exchange .
#   docker run exchange python -m gateway.main
#
# Mirrors of the package index are given as for pip and uv: --build-arg PIP_INDEX_URL=…, or, with credentials in them, a pip.conf as
# --secret id=pip,src=pip.conf. Another base needs Python 3.11 or newer with venv and pip, at the same path in both stages.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# For the compiled core. A base that is not Debian's has to bring a compiler.
RUN command -v cc >/dev/null || { apt-get update -qq && apt-get install --yes -qq --no-install-recommends gcc libc6-dev; }
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /source
COPY requirements requirements
# Byte-compiled, since nothing can be written later.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --require-hashes --requirement requirements/build.lock \
    && python3 -m venv --without-pip /opt/exchange \
    && index="${PIP_INDEX_URL:-$(/opt/build/bin/pip config get global.index-url 2>/dev/null || true)}" \
    && if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi \
    && VIRTUAL_ENV=/opt/exchange /opt/build/bin/uv pip install --quiet --require-hashes --only-binary :all: --compile-bytecode \
        --requirement requirements/image.lock
COPY . .
RUN /opt/build/bin/hatchling build --target wheel --directory /tmp/wheel \
    && VIRTUAL_ENV=/opt/exchange /opt/build/bin/uv pip install --quiet --no-deps --offline --compile-bytecode /tmp/wheel/*.whl
# By the interpreter that will load it; Cython is the other environment's.
RUN PYTHONPATH="$(/opt/build/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        /opt/exchange/bin/python -P -m engine_worker.core_fast.build \
    && rm -rf /opt/exchange/core_fast
# Folders that become volumes: a new volume takes its owner from the folder it is mounted on.
RUN mkdir -p /tmp/folders/var/lib/exchange /tmp/folders/run/exchange \
    && for each in database edge engine feeds gateway grafana migrate mm operator persist prometheus redis; do mkdir -p "/tmp/folders/secrets/$each"; done \
    && chown -R 10001:10001 /tmp/folders/var/lib/exchange /tmp/folders/run/exchange /tmp/folders/secrets

FROM ${PYTHON_IMAGE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="exchange" \
    org.opencontainers.image.description="A spot exchange: every Python process; the command says which" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /tmp/folders/ /
COPY --from=build /opt/exchange /opt/exchange
ENV PATH=/opt/exchange/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EXCHANGE_HOST=0.0.0.0 \
    EXCHANGE_METRICS_HOST=0.0.0.0 \
    EXCHANGE_METRICS_PORT=9100 \
    EXCHANGE_DATA_DIR=/var/lib/exchange \
    EXCHANGE_FAUCET_ENABLED=false
WORKDIR /var/lib/exchange
USER 10001:10001
EXPOSE 8000 8001 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9100/readyz', timeout=4)"]
CMD ["exchange", "--help"]
