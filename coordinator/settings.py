"""Settings of a coordinator: flags of `chorus up`, or environment variables named CHORUS_…"""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where a coordinator keeps its data and how volunteers reach it. Each field is a setting."""

    model_config = SettingsConfigDict(env_prefix="CHORUS_", frozen=True)

    data: Path = Field(Path("chorus-data"), description="Folder for keys, images and the embedded database.")
    database_url: str | None = Field(
        None, description="A postgresql:// URL (17 or newer), instead of the embedded database."
    )
    host: str = Field("127.0.0.1", description="Address that the servers listen on; 0.0.0.0 for all.")
    public_host: str = Field(
        "", description="Name or address that volunteers use; where empty, the one listened on."
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(7433, description="Port of the work server (gRPC).")
    images_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        7434, description="Port of the image server (HTTPS)."
    )
    pool: Annotated[int, Field(ge=1, le=100)] = Field(8, description="Database connections per process.")
    host_cap: Annotated[int, Field(ge=1, le=100_000)] = Field(
        512, description="Units that a host may have in hand; faulty ones may have fewer."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics page listens on.")
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        7435, description="Port of /metrics, /healthz and /readyz (HTTP)."
    )
    drain_s: Annotated[float, Field(ge=0, le=5)] = Field(
        0.0, description="Seconds between saying not ready and closing the ports, at a stop."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    keep_past_leases_days: Annotated[float, Field(ge=0)] = Field(
        30.0, description="Days for which leases of ended units are remembered."
    )

    @property
    def reached_at(self) -> str:
        """The host that goes into invites and image URLs."""
        if self.public_host:
            return self.public_host
        return socket.gethostname() if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 (a comparison)

    @property
    def keys_folder(self) -> Path:
        """Where the CA, the certificate and the signing key lie."""
        return self.data / "keys"

    @property
    def objects_folder(self) -> Path:
        """Where image bytes lie."""
        return self.data / "objects"

    @property
    def metrics_folder(self) -> Path:
        """Where server processes keep their figures."""
        return self.data / "metrics"

    @property
    def images_base(self) -> str:
        """The start of every image URL."""
        return f"https://{_bracketed(self.reached_at)}:{self.images_port}"

    @property
    def work_address(self) -> str:
        """The address that invites carry."""
        return f"{_bracketed(self.reached_at)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
