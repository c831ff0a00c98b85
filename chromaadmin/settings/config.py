"""What an operator may set: environment variables `CHROMAADMIN_*`, or files of those names in a secrets directory."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BASE_DIR = Path(__file__).resolve().parent.parent.parent
SECRETS_DIR = Path("/run/secrets")

Words = Annotated[tuple[str, ...], NoDecode]


def host_slug(name: str) -> str:
    """The name of a host as it stands in a queue's name: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "localhost"


class Config(BaseSettings):
    """The application's configuration, validated once at start; every field has a default that is safe on one host."""

    model_config = SettingsConfigDict(
        env_prefix="CHROMAADMIN_",
        secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None,
        extra="ignore",
        frozen=True,
    )

    home: Path = Field(
        default=BASE_DIR / "var", description="Directory of the database, keys, run folders and static files."
    )
    bind: str = Field(default="127.0.0.1:8000", description="Address and port of the web server.")
    host: str = Field(
        default_factory=lambda: socket.gethostname().split(".")[0],
        description="Name of this host; an instance names the host that has its directory.",
    )
    roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Directories below which persist directories may be registered in the browser, separated by ':'.",
    )
    admin_user: str = Field(
        default="admin", description="Name of the first administrator when a password file is given."
    )
    admin_password_file: Path | None = Field(default=None, description="File with the first administrator's password.")
    allowed_hosts: Words = Field(
        default=(), description="Further host names the pages are asked for by, separated by ','."
    )
    trusted_origins: Words = Field(
        default=(), description="Origins such as https://chroma.example that may send forms, separated by ','."
    )
    tls: bool = Field(default=False, description="Pages are served by https only: secure cookies, redirect, HSTS.")
    proxies: int = Field(default=0, ge=0, le=8, description="How many reverse proxies in front add X-Forwarded-For.")
    workers: int = Field(default=4, ge=1, le=64, description="Supervisors of runs in this host's jobs cluster.")
    web_workers: int = Field(default=1, ge=1, le=16, description="Gunicorn processes, each of 8 threads.")

    @field_validator("home", "admin_password_file", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(value.expanduser()))

    @field_validator("host", mode="after")
    @classmethod
    def _slug(cls, value: str) -> str:
        return host_slug(value)

    @field_validator("roots", mode="before")
    @classmethod
    def _paths(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("roots", mode="after")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(path.expanduser())) for path in value)

    @field_validator("allowed_hosts", "trusted_origins", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bind_has_a_port(self) -> "Config":
        _, _, port = self.bind.rpartition(":")
        if not (port.isdigit() and int(port) < 65536 and self.bind_host):
            raise ValueError("CHROMAADMIN_BIND must be ADDRESS:PORT, for example 127.0.0.1:8000")
        return self

    @property
    def bind_host(self) -> str:
        """The address of `bind` without brackets."""
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def bind_port(self) -> int:
        return int(self.bind.rpartition(":")[2])

    @property
    def loopback_only(self) -> bool:
        """Whether the web server can be reached from this host alone."""
        return self.bind_host in {"localhost", "::1"} or self.bind_host.startswith("127.")

    @property
    def jobs_queue(self) -> str:
        """The queue of the runs whose stores lie on this host."""
        return f"host-{self.host}"
