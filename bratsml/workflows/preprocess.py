"""The entry point ``preprocess``, and the way every other one comes by a store."""

from __future__ import annotations

import difflib
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bratsml.data.preprocess import Report, build_store
from bratsml.data.recipes import RECIPES, RecipeConfig
from bratsml.data.store import STORE_FILE, Store
from bratsml.errors import ConfigError
from bratsml.files import sha256_of_json
from bratsml.workflows.console import console as shared_console

STORES_FOLDER = Path("data") / "stores"
"""Where stores made on the way are kept, below the current folder."""
_SHOWN_REJECTED = 10


def preprocess(
    data: str | Path,
    out: str | Path | None = None,
    recipe: str | RecipeConfig = "native",
    *,
    label_scheme: str | None = None,
    workers: int | None = None,
    need_labels: bool = True,
    allow_rejected: bool = False,
    repair: bool = False,
    manifest: Path | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Store:
    """Preprocess a folder of raw cases into a store and print what came of it.

    Args:
        data: Folder of raw cases.
        out: Folder of the store; by default (``None`` or empty) the kept one of :func:`store_path`.
        recipe: Name of a recipe, or a recipe with its settings.
        label_scheme: ``None`` or ``auto`` takes what the case names imply.
        allow_rejected: Go on without the cases that cannot be used.
        console: Where the summary goes; the terminal by default.

    Raises:
        ConfigError: No data given, unknown recipe or label scheme.
        DataError: As :func:`bratsml.data.preprocess.preprocess_dataset`; the summary is printed
            and the store of the other cases finished first.
    """
    if not str(data):
        raise ConfigError("preprocess needs data=FOLDER, a folder of raw cases")
    source = Path(data)
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    kept = store_path(source, chosen, label_scheme, need_labels=need_labels, repair=repair)
    target = Path(out) if out else kept
    report = build_store(
        source,
        target,
        chosen,
        label_scheme,
        workers=workers,
        need_labels=need_labels,
        repair=repair,
        manifest=manifest,
        progress=progress,
    )
    _print_summary(report, chosen, console or shared_console)
    if not allow_rejected or report.num_usable == 0:
        report.require_complete()
    return Store.open(target)


def ensure_store(
    data: Path,
    recipe: RecipeConfig | None = None,
    *,
    label_scheme: str | None = None,
    workers: int | None = None,
    need_labels: bool = True,
    allow_rejected: bool = False,
    repair: bool = False,
    progress: bool = True,
    console: Console | None = None,
) -> Store:
    """The store behind ``data``: itself when it is one, otherwise made from its raw cases and kept.

    A raw folder is looked over every time, so a changed case is done again and an unchanged folder
    costs next to nothing.

    Args:
        recipe: What the experiment asks for; a store of another recipe is refused. ``None`` takes a
            store as it is and preprocesses raw cases by ``native``.

    Raises:
        ConfigError: The store was made by another recipe or label scheme.
        DataError: As :func:`preprocess`.
    """
    if (data / STORE_FILE).is_file():
        store = Store.open(data)
        if recipe is not None:
            store.require_recipe(recipe)
        if label_scheme not in (None, "auto", store.label_scheme):
            raise ConfigError(
                f"store {data.name} holds labels of scheme {store.label_scheme}, the experiment "
                f"asks for {label_scheme}; give the raw cases or change data.label_scheme"
            )
        return store
    return preprocess(
        data,
        None,
        recipe or "native",
        label_scheme=label_scheme,
        workers=workers,
        need_labels=need_labels,
        allow_rejected=allow_rejected,
        repair=repair,
        progress=progress,
        console=console,
    )


def store_path(
    data: Path,
    recipe: RecipeConfig,
    label_scheme: str | None = None,
    *,
    need_labels: bool = True,
    repair: bool = False,
) -> Path:
    """Where the store of a raw folder is kept: ``data/stores/<folder>-<recipe>-<hash>``.

    The hash tells apart folders of one name and settings of one recipe.
    """
    source = data.resolve()
    settings = [str(source), recipe.tree(), label_scheme or "auto", need_labels, repair]
    name = f"{source.name}-{recipe.kind}-{sha256_of_json(settings)[:8]}"
    return Path.cwd() / STORES_FOLDER / name


def recipe_named(name: str) -> RecipeConfig:
    """The recipe of that name with its default settings.

    Raises:
        ConfigError: Unknown name; gives the nearest one.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"recipe {name!r} is unknown, there are {', '.join(RECIPES)}{hint}")
    return RECIPES[name]()


def _print_summary(report: Report, recipe: RecipeConfig, console: Console) -> None:
    line = f"{report.num_usable} cases in store {report.path.name} (recipe {recipe.kind}): "
    line += f"{report.num_done} preprocessed in {report.seconds:.1f} s, "
    line += f"{report.num_skipped} already there, {len(report.rejected)} rejected"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not report.rejected:
        return
    table = Table("case", "file", "reason", "remedy", title="Rejected (all in rejected.csv)")
    for error in report.rejected[:_SHOWN_REJECTED]:
        cells = (error.case, error.file, error.reason, error.remedy)
        table.add_row(*cells)
    console.print(table)
