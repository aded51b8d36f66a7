"""Every key of the settings, with its type, default, description and check: the only place that describes them.

`hubdist.config.reference` writes `configs/hubdist.yaml` and `docs/reference/settings.md` from this module. The first
sentence of a description is also shown alone, in tables. Pydantic turns the `ValueError`s of the checks into its own
errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, PlainSerializer

from hubdist.config.amounts import parse_link
from hubdist.config.checks import (
    check_data_ports,
    check_imports,
    check_lock_file,
    check_models,
    check_origins,
    check_shared_cache,
    check_store,
    check_tfhub_cache_dir,
    wrap_handle,
)
from hubdist.config.model_settings import (
    FrozenDict,
    ListedModel,
    ReadMode,
    RouteSetting,
    redacted_fields,
)
from hubdist.config.origin_headers import OriginHeaders, check_origin_headers, plain_headers
from hubdist.model.source import Source

_Origins = Mapping[str, Callable[[str], Source]]
_Time = Annotated[float, Field(gt=0, le=30 * 24 * 3600.0)]  # seconds, at most 30 days: nothing waits for ever


_Models = tuple[Annotated[ListedModel, BeforeValidator(wrap_handle)], ...]


class Keys(BaseModel):
    """The keys of the settings. Their descriptions are in the fields; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    store: Annotated[str, AfterValidator(check_store)] = Field(
        default="~/.cache/hubdist",
        description="Directory for models on each node: an absolute path, or one that begins with `~`."
        " If other users own the directory or may write to it, as with the mount of a volume, hubdist keeps models in"
        " `hubdist-<user id>` inside it, which only this user may open."
        " Nodes that see the same directory, such as a home on NFS, are sent nothing twice."
        " `{node_id}` stands for Ray's id of the node and gives each node a directory of its own."
        " Without this key a node uses `$XDG_CACHE_HOME/hubdist` if its environment has that variable, else"
        " `~/.cache/hubdist`. Each node expands `~` for itself.",
    )
    max_store_bytes: Annotated[ByteSize, Field(gt=0)] | None = Field(
        default=None,
        description="Largest size of all models in a node's store together."
        " To make room, the store deletes the least recently used models that no process uses."
        " The limit also holds for what is downloaded for one model."
        " On file systems without locks the store deletes nothing, because nobody can tell there what is in use."
        " `null`: no limit.",
    )
    low_store_percent: int = Field(
        default=90,
        ge=1,
        le=100,
        description="Low mark of a store that is above `max_store_bytes`, in percent of it."
        " Once it has to delete models, the store goes on down to this mark, so that it does not have to at every new"
        " model. A model that is larger than the distance between the marks is not deleted for the low mark alone.",
    )
    scrub_rate: Annotated[float, BeforeValidator(parse_link), Field(gt=0)] | None = Field(
        default=None,
        description="How fast a node's agent reads its store again while it has no work, such as `20MB/s`, to find"
        " bytes that the disk has lost."
        " Damaged models are repaired from other nodes, or from the shared cache; those that cannot be are moved aside,"
        " and brought anew by the next load. An agent without work ends after `agent_idle_s`; the next one goes on"
        " where it stopped. `null`: nothing is read again but by `hubdist verify`.",
    )
    models: Annotated[_Models, AfterValidator(check_models)] = Field(
        default=(),
        description="Models that are brought to all nodes as soon as the job first uses hubdist."
        " An entry is a handle, or a mapping with a `handle` and any of `digest`, `route` and `read_mode`, which hold"
        " for this model alone. hubdist refuses other bytes than those of the `digest`. `include` and `exclude` are"
        " patterns that choose files; each choice is a model of its own. List each model once.",
        examples=[
            """\
models:
  - https://tfhub.dev/google/nnlm-en-dim50/2
  - handle: gs://my-bucket/my-model
    digest: sha256:<64 hexadecimal digits>
    route: direct
    read_mode: memory
  - handle: hf://org/model
    include: ["*.safetensors", "*.json"]"""
        ],
    )
    route: RouteSetting = Field(
        default="auto",
        description="Which way a node tries first to get a model."
        " The other ways follow if it fails, and one line in the log says why."
        " `shared`: from `shared_cache`. `direct`: from the directory that the handle names, `gs://...` or a mount of"
        " all nodes, without a copy by the driver's node. `driver`: from the driver's node and other nodes;"
        " this always works. `auto`: the first of these three that a process on the node can read."
        " `hubdist.plan(handle)` shows what each node would do, and why.",
    )
    read_mode: ReadMode = Field(
        default="store",
        description="What TensorFlow opens."
        " `store`: the directory in the node's store. `memory`: a copy in TensorFlow's `ram://`, for nodes without a"
        " disk. `in_place`: the `gs://` or mounted directory itself, if it is known to hold the very files that were"
        " digested; else hubdist does as for `store`.",
    )
    shared_cache: Annotated[str | None, AfterValidator(check_shared_cache)] = Field(
        default=None,
        description="Directory on object storage (`gs://bucket/directory`), or on a mount that all nodes have"
        " (`/mnt/models`), where the driver's node puts models once and all nodes read them."
        " `$TFHUB_CACHE_DIR` wins over a YAML file's value if it is a `gs://` URL. `null`: no shared cache.",
    )
    shared_cache_read_only: bool = Field(
        default=False, description="Use the models that are in `shared_cache`, and never write to it."
    )
    swarm_reads: bool = Field(
        default=False,
        description="Read a shared cache or a directory once per cluster."
        " Each node then reads a share and hands it on to the others; for storage that is slow, far away or billed."
        " `false`: each node reads everything itself.",
    )
    probe_timeout_s: _Time = Field(
        default=10.0, description="Longest time to find out whether a node can read a shared cache or a directory."
    )
    offline: bool = Field(
        default=False,
        description="Ask no network. Models then come from the driver's disk, its TensorFlow Hub cache, and mounted"
        " directories.",
    )
    tfhub_cache_dir: Annotated[str | None, AfterValidator(check_tfhub_cache_dir)] = Field(
        default=None,
        description="A TensorFlow Hub cache on the driver's node; complete models in it are used before the network is"
        " asked. A relative path is relative to the driver's directory."
        " `$TFHUB_CACHE_DIR` wins over a YAML file's value if it is a local directory. `null`: no such cache.",
    )
    origin_headers: Annotated[OriginHeaders, AfterValidator(check_origin_headers), PlainSerializer(plain_headers)] = (
        Field(
            default={},
            validate_default=True,
            description="Headers for single servers of hubs and archives, for those behind a token or a proxy."
            " A value names a variable of the driver's environment, as `env:HUB_TOKEN` or `Bearer env:HUB_TOKEN`;"
            " a value that stands in the text itself is refused. A server is an https host, `hub.example.com`, with its"
            " port if that is not 443, or `http://hub.local:8080`. No header goes to another host or port than its own,"
            " nor from https to http, also where an answer redirects.",
            examples=[
                """\
origin_headers:
  hub.example.com:
    Authorization: Bearer env:HUB_TOKEN
  gitlab.example.com:8443:
    PRIVATE-TOKEN: env:GITLAB_TOKEN"""
            ],
        )
    )
    netrc: bool = Field(
        default=True,
        description="Use the logins of `.netrc` on the driver's node, or of the file that `NETRC` names there."
        " A login goes over https only (or to this machine itself), to the host of its entry, and not where that host"
        " redirects to. Its `default` entry is not used. A login in the handle and an `Authorization` of"
        " `origin_headers` win over it.",
    )
    lock_file: Annotated[str | None, AfterValidator(check_lock_file)] = Field(
        default=None,
        description="File on the driver's node that notes the digest of every handle on first use; later jobs refuse"
        " other bytes. Usually `hubdist.lock` beside the driver's script. A relative path is relative to the driver's"
        " directory. The file may be a link, and several jobs may share it. `null`: no such file.",
    )
    frozen: bool = Field(
        default=False,
        description="Refuse handles that neither `lock_file` nor `models` pins; take pins as they are (uv's frozen).",
    )
    locked: bool = Field(
        default=False,
        description="Refuse a `lock_file` that is out of date, as uv's `--locked` does: it lacks a handle, or an"
        " origin has other bytes by now. To find out, each job reads the origin of each handle once.",
    )
    fresh: bool = Field(
        default=False,
        description="Open the same bytes anew at every `load`, even if the process has the model unchanged."
        " `hubdist.refresh(handle)` asks for new bytes.",
    )
    max_loaded_models: int = Field(
        default=8,
        ge=0,
        description="Largest number of loaded models that a process keeps for the next `load`. 0 keeps none.",
    )
    max_loaded_bytes: Annotated[ByteSize, Field(ge=0)] | None = Field(
        default=None,
        description="Largest size of the kept models that nobody else holds, while another model is loaded."
        " The model that was loaded last always stays until then."
        " `null`: 1GiB in processes that run Ray tasks, whose variables end with each task; 0 in drivers and actors,"
        " which hold what they need themselves.",
    )
    tf_resources: Literal["task", "all"] = Field(
        default="task",
        description="What TensorFlow takes in processes that run Ray's tasks or actors."
        " `task`: what Ray gave the task or actor. As many threads as `num_cpus`, at least one, which is how Ray sets"
        " `OMP_NUM_THREADS` for other libraries; no GPU without `num_gpus`, of whole GPUs the memory that is needed,"
        " and of a part of a GPU at most that part of its memory. `all`: what TensorFlow takes by itself, which is a"
        " thread for each core of the node and all memory of each GPU that it sees. The first load of a process"
        " decides. What the program or `TF_*` variables set stays, and nothing is changed in drivers and without Ray.",
    )
    imports: Annotated[tuple[str, ...], AfterValidator(check_imports)] = Field(
        default=(),
        description="Modules that each process imports before it loads its first model."
        " A model that uses operations of a package, such as `tensorflow_text`, needs that package here and on every"
        " node.",
    )
    timeout_s: _Time = Field(
        default=3600.0,
        description="Longest time for one `load`, `resolve` or `prefetch`, and for all files of a model from its"
        " origin.",
    )
    connect_timeout_s: _Time = Field(default=10.0, description="Longest time to connect to an origin.")
    stall_timeout_s: _Time = Field(default=30.0, description="Longest time without a byte from an origin.")
    chunk_timeout_s: _Time = Field(
        default=120.0, description="Longest time for one chunk from another node; then it is asked for again."
    )
    origin_retries: int = Field(
        default=5,
        ge=0,
        description="How often a failed read of an origin, a shared cache or other storage is tried again without"
        " progress.",
    )
    max_in_flight_bytes: Annotated[ByteSize, Field(ge=4 << 20, le=256 << 20)] = Field(
        default=ByteSize(64 << 20),
        description="Largest number of bytes under way at once to one node, and from one node, of all models"
        " together. It bounds four things, each for itself: the chunks that a node receives and those that it sends;"
        " what the driver's node uploads to `shared_cache`; what a node copies from storage, which may take as much"
        " again; and the size of one chunk. From 4MiB to 256MiB.",
    )
    data_port: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether nodes send each other bytes over a TCP port of their own, which takes a third of the"
        " processor time."
        " `auto`: they do, on Ray's address of the node; who asks must know a secret that Ray's own calls carry."
        " Where Ray itself encrypts (`RAY_USE_TLS=1`), they encrypt with Ray's certificates."
        " Where a port cannot be reached, bytes go by calls of Ray."
        " `off`: bytes always go by calls of Ray.",
    )
    data_ports: Annotated[str | None, AfterValidator(check_data_ports)] = Field(
        default=None,
        description="The ports that `data_port` may open, as `19800-19999`, for clusters that allow certain ports only."
        " Each node opens one of them for each job. `null`: the system chooses.",
    )
    link: Annotated[float, BeforeValidator(parse_link)] | None = Field(
        default=None,
        description="The rate of a node's network link, in both directions at once, such as `25Gbit/s` or `1GiB/s`."
        " It limits nothing: reports then say beside the real time of a delivery which one was predicted, and"
        " `hubdist.plan(handle, nodes=512)` takes it. `null`: unknown.",
    )
    agent_idle_s: _Time = Field(
        default=10.0,
        description="Time after which hubdist's actor on a node ends when it has no work, so that the node can scale"
        " down.",
    )
    export_metrics: bool = Field(
        default=True,
        description="Count bytes, deliveries, waits and the like through Ray's metrics, where Prometheus finds them."
        " A count takes some microseconds.",
    )
    origins: Annotated[_Origins, AfterValidator(check_origins)] = Field(
        default=FrozenDict({}),
        repr=False,
        description="Functions for handles of your own kind, by scheme."
        " Each makes a `hubdist.Source` from a handle, which is a string. From `hubdist.init` only: YAML cannot hold"
        " functions.",
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` and `str` show: the fields, with secrets of URLs removed."""
        return redacted_fields(super().__repr_args__())
