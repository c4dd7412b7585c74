# The lab with everything that it needs: docker build -t lth . && docker run --rm lth make quickstart
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /lab
COPY requirements.txt requirements.lock pyproject.toml Makefile README.md ./
COPY lthcore lthcore
RUN make setup PYTHON=python
COPY . .
ENV LTH_PLAIN=1
CMD ["make", "quickstart"]
