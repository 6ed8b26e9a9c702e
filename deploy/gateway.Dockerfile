FROM python:3.11-slim-bookworm

WORKDIR /opt/cpcsam
COPY deploy/gateway.lock deploy/
RUN pip install --no-cache-dir --require-hashes --requirement deploy/gateway.lock
COPY LICENSE README.md pyproject.toml ./
COPY cpcsam/ cpcsam/
RUN pip install --no-cache-dir --no-deps .

COPY serving/ serving/
USER 1000:1000
EXPOSE 50051 9090
ENTRYPOINT ["python", "-m", "serving.gateway"]
