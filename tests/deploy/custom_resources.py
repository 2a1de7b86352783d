"""The custom resources that the overlays use, as far as they use them: what their operators' definitions
allow and demand."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tests.deploy.rendered import Object

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Duration = Annotated[str, Meta(pattern=r"^([0-9]+(ms|s|m|h|d|w))+$")]
Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Refuses fields that it does not know."""


class Metadata(Strict):
    name: Name
    namespace: Name
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Selector(Strict):
    match_labels: dict[str, str]


# KEDA


class ScaleTarget(Strict):
    name: Name
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    api_version: str = "apps/v1"


class PrometheusTrigger(Strict):
    server_address: Annotated[str, Meta(pattern=r"^https?://")]
    query: Annotated[str, Meta(min_length=1)]
    threshold: Annotated[str, Meta(pattern=r"^[0-9.]+$")]
    activation_threshold: Annotated[str, Meta(pattern=r"^[0-9.]+$")] = "0"


class Trigger(Strict):
    type: Literal["prometheus"]
    metadata: PrometheusTrigger
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"


class Fallback(Strict):
    failure_threshold: Positive
    replicas: Natural


class ScaleDown(Strict):
    stabilization_window_seconds: Annotated[int, Meta(ge=0, le=3600)]


class Behavior(Strict):
    scale_down: ScaleDown


class HpaConfig(Strict):
    behavior: Behavior


class Advanced(Strict):
    horizontal_pod_autoscaler_config: HpaConfig


class ScaledObjectSpec(Strict):
    scale_target_ref: ScaleTarget
    triggers: Annotated[list[Trigger], Meta(min_length=1)]
    polling_interval: Positive = 30
    min_replica_count: Natural = 0
    max_replica_count: Positive = 100
    fallback: Fallback | None = None
    advanced: Advanced | None = None


class ScaledObject(Strict):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


# The Prometheus operator


class SecretKey(Strict):
    name: Name
    key: str


class Authorization(Strict):
    type: str
    credentials: SecretKey


class Endpoint(Strict):
    port: Name
    path: Annotated[str, Meta(pattern="^/")]
    interval: Duration
    authorization: Authorization | None = None


class PodMonitorSpec(Strict):
    selector: Selector
    pod_metrics_endpoints: Annotated[list[Endpoint], Meta(min_length=1)]
    pod_target_labels: list[str] = []


class PodMonitor(Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class AlertRule(Strict, rename=None):
    expr: str | int
    alert: str = ""
    record: str = ""
    for_: Duration | None = msgspec.field(default=None, name="for")
    keep_firing_for: Duration | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class RuleGroup(Strict, rename=None):
    name: Annotated[str, Meta(min_length=1)]
    rules: Annotated[list[AlertRule], Meta(min_length=1)]
    interval: Duration | None = None


class PrometheusRuleSpec(Strict):
    groups: Annotated[list[RuleGroup], Meta(min_length=1)]


class PrometheusRule(Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


# CloudNativePG and its Barman plugin


class InitDb(Strict):
    database: Name
    owner: Name
    post_init_application_sql: list[str] = msgspec.field(default_factory=list, name="postInitApplicationSQL")


class Bootstrap(Strict):
    initdb: InitDb


class Postgres(Strict):
    parameters: dict[str, str]
    shared_preload_libraries: list[str] = msgspec.field(default_factory=list, name="shared_preload_libraries")


class ClusterAffinity(Strict):
    enable_pod_anti_affinity: bool
    pod_anti_affinity_type: Literal["preferred", "required"]
    topology_key: str


class Resources(Strict):
    requests: dict[Literal["cpu", "memory"], Quantity]
    limits: dict[Literal["cpu", "memory"], Quantity]


class Storage(Strict):
    size: Quantity
    storage_class: Name | None = None


class Plugin(Strict):
    name: Literal["barman-cloud.cloudnative-pg.io"]
    parameters: dict[Literal["barmanObjectName", "serverName"], str] = {}
    is_wal_archiver: bool = msgspec.field(default=False, name="isWALArchiver")


class SecretName(Strict):
    name: Name


class ManagedRole(Strict):
    """One of `spec.managed.roles`: https://cloudnative-pg.io/documentation/current/declarative_role_management/."""

    name: Annotated[str, Meta(pattern=r"^[a-z_]+$")]
    login: bool
    password_secret: SecretName
    ensure: Literal["present", "absent"] = "present"
    in_roles: list[str] = []


class Managed(Strict):
    roles: list[ManagedRole]


class ClusterSpec(Strict):
    managed: Managed
    instances: Positive
    image_name: Annotated[str, Meta(pattern=r":[^:/]+$")]
    bootstrap: Bootstrap
    postgresql: Postgres
    affinity: ClusterAffinity
    resources: Resources
    storage: Storage
    wal_storage: Storage
    plugins: list[Plugin]
    priority_class_name: str
    enable_pdb: bool = msgspec.field(name="enablePDB")
    primary_update_strategy: Literal["unsupervised", "supervised"]


class Cluster(Strict):
    api_version: Literal["postgresql.cnpg.io/v1"]
    kind: Literal["Cluster"]
    metadata: Metadata
    spec: ClusterSpec


class ClusterReference(Strict):
    name: Name


class PluginConfiguration(Strict):
    name: Literal["barman-cloud.cloudnative-pg.io"]


class ScheduledBackupSpec(Strict):
    schedule: Annotated[str, Meta(pattern=r"^(\S+ ){5}\S+$")]
    """Six fields: seconds come first."""
    cluster: ClusterReference
    method: Literal["plugin", "barmanObjectStore", "volumeSnapshot"]
    plugin_configuration: PluginConfiguration
    backup_owner_reference: Literal["none", "self", "cluster"]
    immediate: bool = False


class ScheduledBackup(Strict):
    api_version: Literal["postgresql.cnpg.io/v1"]
    kind: Literal["ScheduledBackup"]
    metadata: Metadata
    spec: ScheduledBackupSpec


class S3Credentials(Strict):
    access_key_id: SecretKey
    secret_access_key: SecretKey


class Wal(Strict):
    compression: Literal["gzip", "bzip2", "lz4", "snappy", "xz", "zstd"]


class StoreConfiguration(Strict):
    destination_path: Annotated[str, Meta(pattern=r"^s3://")]
    s3_credentials: S3Credentials
    wal: Wal
    endpoint_url: str = msgspec.field(default="", name="endpointURL")


class ObjectStoreSpec(Strict):
    configuration: StoreConfiguration
    retention_policy: Annotated[str, Meta(pattern=r"^[1-9][0-9]*[dwm]$")]


class ObjectStore(Strict):
    api_version: Literal["barmancloud.cnpg.io/v1"]
    kind: Literal["ObjectStore"]
    metadata: Metadata
    spec: ObjectStoreSpec


KINDS: Final[dict[str, type[Strict]]] = {
    each.__name__: each
    for each in (ScaledObject, PodMonitor, PrometheusRule, Cluster, ScheduledBackup, ObjectStore)
}


def check(value: Object) -> Any:
    """Return a custom resource.

    Raises:
        msgspec.ValidationError: it is none of its kind.
    """
    return msgspec.convert(value, KINDS[value["kind"]])
