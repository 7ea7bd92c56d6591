"""Loading a transformer: a folder or a name of the Hugging Face Hub becomes a tokenizer, a model and a digest of its files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panmodal._digest import LENGTH
from panmodal.errors import InputError, some

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.bpe", "*.vocab")
"""Configuration and tokenizers."""

WEIGHTS = ("model.safetensors", "model-*.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin")

OTHER_FORMATS = ("onnx/*", "openvino/*", "coreml/*", "original/*", "gguf/*", "tf/*", "flax/*")
"""Folders of a repository that hold the same model for other programs."""

SPARE_WEIGHTS = ("pooler", "contact_head", "lm_head", "cls.predictions", "inv_freq", "position_ids")
"""Parts of names of weights that no state of a token depends on: a checkpoint may lack them."""

BY_HAND = (
    "Without a connection, fetch it where there is one (hf download {name} --local-dir FOLDER) and give FOLDER as the model; "
    "or copy the cache of the hub and point HF_HOME at it (HF_HUB_OFFLINE=1 then asks for no connection)."
)


@dataclass(frozen=True)
class ModelFolder:
    """A model on the disk.

    Attributes
    ----------
    name
        As the user gave it: a folder, or a name of the hub.
    path
        Where its files are.
    commit
        Commit of the hub; empty for a folder.
    pickled
        Whether its weights are pickled.
    digest
        SHA-256 of configuration, tokenizer and weights (and code, if it may run): the same for a folder and its copy on the hub.
    """

    name: str
    path: Path
    commit: str
    pickled: bool
    digest: str


def require_modules(*modules: str) -> None:
    """Raise InputError that says what to install, if a module is missing."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        raise InputError(f"models need {some(absent)}, which is not installed: pip install 'panmodal[models]'.")


def find_model(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> ModelFolder:
    """Find a model: a folder if there is one of that name, else the hub (its cache, or a download).

    Weights are fetched in the safetensors format, and pickled ones only with ``allow_pickle``; code only with
    ``trust_remote_code``.

    Raises
    ------
    InputError
        There is no such folder or name, no connection, or no weights in a format that is allowed.
    """
    require_modules("torch", "transformers", "huggingface_hub")
    given = Path(model).expanduser()
    commit = ""
    if given.is_dir():
        if revision is not None:
            raise InputError(f"{model}: a folder has no revisions. Leave out revision={revision!r}.")
        path = given
    elif given.exists():
        raise InputError(f"{model}: is a file. Give the folder that holds config.json and model.safetensors.")
    elif given.is_absolute() or model.startswith(("~", ".")) or model.count("/") > 1 or not model.strip():
        raise InputError(f"{model!r}: there is no such folder, and it is no name of the Hugging Face Hub (OWNER/NAME).")
    else:
        code = ("*.py",) if trust_remote_code else ()
        path = _fetch(model, revision, (*SMALL_FILES, *code, *WEIGHTS, *(f"*/{name}" for name in WEIGHTS)))
        if allow_pickle and not _weights(path, WEIGHTS):
            path = _fetch(model, revision, (*SMALL_FILES, *code, *PICKLED, *(f"*/{name}" for name in PICKLED)))
        commit = path.name
    pickled = _check_weights(model, path, allow_pickle)
    return ModelFolder(model, path, commit, pickled, _digest(path, pickled, trust_remote_code))


def _fetch(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    import huggingface_hub

    try:
        with quiet():
            found = huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(OTHER_FORMATS)
            )
    except Exception as error:  # of huggingface_hub, httpx, requests or the system: they share no base
        kind = type(error).__name__
        if kind == "GatedRepoError":
            hint = "Accept its terms on its page and log in (hf auth login)."
        elif kind == "RevisionNotFoundError":
            hint = f"It has no revision {revision!r}."
        elif kind in ("RepositoryNotFoundError", "HFValidationError"):
            hint = "There is no folder and no public model of that name: check the spelling, or log in (hf auth login)."
        else:
            hint = BY_HAND.format(name=name)
        raise InputError(
            f"model {name!r} cannot be had from the Hugging Face Hub ({_first_line(error)}). {hint}"
        ) from error
    return Path(found)


def _weights(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(file for pattern in patterns for file in path.rglob(pattern))


def _check_weights(model: str, path: Path, allow_pickle: bool) -> bool:
    """Return whether the weights are pickled; refuse a folder without any, or with pickled ones unless they are allowed."""
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise InputError(
            f"{model}: no config.json in it. Give the folder that save_pretrained writes, or OWNER/NAME of the hub."
        )
    if _weights(path, WEIGHTS):
        return False
    if allow_pickle and _weights(path, PICKLED):
        return True
    raise InputError(
        f"{model}: no weights in the safetensors format (model.safetensors). Weights in pytorch_model.bin are pickled, and a "
        "pickle may hold code: with allow_pickle torch reads them with its restricted unpickler (weights only). Or convert "
        "them once: AutoModel.from_pretrained(MODEL).save_pretrained(FOLDER), likewise the tokenizer, and give FOLDER."
    )


def _digest(path: Path, pickled: bool, code: bool) -> str:
    patterns = (*SMALL_FILES, *(PICKLED if pickled else WEIGHTS), *(("*.py",) if code else ()))
    files = {file.relative_to(path).as_posix(): file for pattern in patterns for file in path.rglob(pattern)}
    state = hashlib.sha256()
    for name in sorted(files):
        parts = name.split("/")
        if any(part.startswith(".") for part in parts) or f"{parts[0]}/*" in OTHER_FORMATS:
            continue
        with files[name].open("rb") as stream:
            state.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{state.hexdigest()[:LENGTH]}"


def choose_device(device: str, dtype: str = "float32") -> Any:
    """Return the torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` (the first accelerator, else the CPU).

    Raises
    ------
    InputError
        There is no such device, or it does not compute in ``dtype``.
    """
    require_modules("torch")
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} cannot be used here ({_first_line(error)}). Choose cpu, or auto for what there is."
        ) from None
    if dtype not in ("float32", "float16", "bfloat16"):
        raise InputError(f"dtype {dtype!r}: must be float32, float16 or bfloat16.")
    if dtype == "float16" and chosen.type == "cpu":
        raise InputError("dtype float16 is for GPUs. Choose float32 or bfloat16 on the CPU.")
    return chosen


def load_model(folder: ModelFolder, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load tokenizer and model (of an encoder-decoder the encoder), in evaluation mode on the CPU.

    Raises
    ------
    InputError
        transformers cannot load it, its code may not run, or its checkpoint lacks weights that it needs.
    """
    require_modules("torch", "transformers")
    import transformers

    source, options = str(folder.path), {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            kind = _auto_class(transformers, config, trust_remote_code)
            model, found = kind.from_pretrained(
                source, **options, config=config, use_safetensors=not folder.pickled, output_loading_info=True
            )
    except ImportError as error:
        raise InputError(f"{folder.name}: it needs a package that is not installed ({_first_line(error)}).") from error
    except Exception as error:  # whatever a configuration may cause
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise InputError(
                f"{folder.name}: it brings code of its own, which is not run unless you ask for it with trust_remote_code: "
                "read that code first, and fix the revision."
            ) from None
        hint = ""
        if any(folder.path.glob("*.model")) and not (folder.path / "tokenizer.json").is_file():
            hint = " Its tokenizer is a sentencepiece model, which is read with: pip install sentencepiece protobuf."
        raise InputError(f"{folder.name}: transformers cannot load it ({_first_line(error)}).{hint}") from error
    lacking = sorted(name for name in found["missing_keys"] if not any(part in name for part in SPARE_WEIGHTS))
    if lacking:
        raise InputError(
            f"{folder.name}: its checkpoint lacks weights of {type(model).__name__} ({some(lacking, 3)}), which would be random. "
            "It is meant for another class: if it brings its own code, see trust_remote_code."
        )
    if config.is_encoder_decoder and hasattr(model, "get_encoder"):
        model = model.get_encoder()
    return tokenizer, model.eval()


def _auto_class(transformers: Any, config: Any, trust_remote_code: bool) -> Any:
    own = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    if "AutoModel" not in own and "AutoModelForMaskedLM" in own:
        return transformers.AutoModelForMaskedLM
    encoders = transformers.AutoModelForTextEncoding
    if config.is_encoder_decoder and type(config) in encoders._model_mapping:
        return encoders
    return transformers.AutoModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers and the hub, and restore them afterwards."""
    import huggingface_hub.utils as hub
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    silent = hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not silent:
            hub.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def load_sentence_model(folder: ModelFolder, device: Any, dims: int | None, *, trust_remote_code: bool = False) -> Any:
    """Load a model with sentence-transformers, in evaluation mode.

    Raises
    ------
    InputError
        The package is missing, the folder is no model of it, or it cannot be loaded.
    """
    require_modules("torch", "transformers", "sentence_transformers")
    if not (folder.path / "modules.json").is_file():
        raise InputError(
            f"{folder.name}: no modules.json in it, so it names no pooling. It is no model of sentence-transformers: use the "
            "builder text-model."
        )
    with quiet():
        import sentence_transformers

        try:
            model = sentence_transformers.SentenceTransformer(
                str(folder.path), device=str(device), truncate_dim=dims, trust_remote_code=trust_remote_code,
                local_files_only=True, model_kwargs={"use_safetensors": not folder.pickled},
            )  # fmt: skip
        except Exception as error:  # whatever a configuration may cause
            raise InputError(f"{folder.name}: sentence-transformers cannot load it ({_first_line(error)}).") from error
    return model.eval()
