"""Where things lie: this checkout, its tasks and shipped models; and paths as a user types them."""

from pathlib import Path

from harness_ext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TASKS_DIR = ROOT / "tasks"
SHIPPED = {"tiny": ROOT / "models" / "tiny", "tiny-base": ROOT / "models" / "tiny-base"}


def as_path(what: str, text: str) -> Path:
    """Read a path as the user typed it; one that no file system could hold, or of an unknown ``~user``, is refused."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{what} {text[:80]!r} is no path: {getattr(error, 'strerror', None) or error}.") from None
    return path


def file_of(model: str | None, gguf: str | None) -> str | None:
    """Write a model and the file of it that GGUF= names as one path, which MODEL= takes too."""
    if gguf and not model:
        raise UserError(f"GGUF {gguf!r} names a file of MODEL=, a folder or Hub id: give that too.")
    return f"{model}/{gguf}" if gguf else model


def local_path(folder: Path) -> str:
    """Write a folder so that no library takes it for a Hub id and looks it up there."""
    return str(folder) if folder.is_absolute() else f"./{folder}"
