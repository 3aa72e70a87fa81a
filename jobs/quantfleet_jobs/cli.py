"""The command line: `quantfleet VERB RECIPE`. One verb per job, and a few to look around."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import quantfleet
from quantfleet.errors import ConfigError, nearest
from quantfleet.plugins import PluginRegistry, load_plugins
from quantfleet_jobs.cli_bench import bench_app
from quantfleet_jobs.cli_common import OverwriteOption, RecipeArgument, SetOption, console, exit_with
from quantfleet_jobs.cli_data import data_app
from quantfleet_jobs.cli_features import add_feature_commands
from quantfleet_jobs.cli_models import add_model_commands

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantfleet",
    help="Train market models on a fleet, judge them as a sceptic would, promote what survives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command("run")
def run(recipe: RecipeArgument, override: SetOption = None, overwrite: OverwriteOption = False) -> None:
    """Run every stage of a recipe and print the decision table; finished stages are kept."""

    def work() -> None:
        from quantfleet_jobs.recipe import load_recipe
        from quantfleet_jobs.run import run_recipe

        run_recipe(load_recipe(recipe, override or ()), overwrite=overwrite)

    exit_with(work)


@app.command("cross-validate")
def cross_validate(recipe: RecipeArgument, override: SetOption = None, overwrite: OverwriteOption = False) -> None:
    """Train and test every fold of the recipe's split: walk-forward with retraining, CPCV paths; with a search, nested."""

    def work() -> None:
        from quantfleet_jobs.cross_validate import print_cross_validation
        from quantfleet_jobs.recipe import load_recipe

        print_cross_validation(load_recipe(recipe, override or ()), console=console, overwrite=overwrite)

    exit_with(work)


def _stage_command(group: typer.Typer, verb: str, name: str, help_text: str) -> None:
    def command(recipe: RecipeArgument, override: SetOption = None, overwrite: OverwriteOption = False) -> None:
        def work() -> None:
            import importlib

            from quantfleet_jobs.main import perform
            from quantfleet_jobs.recipe import load_recipe

            stage = importlib.import_module(f"quantfleet_jobs.{name}").STAGE
            perform([stage], load_recipe(recipe, override or ()), overwrite=overwrite, console=console)

        exit_with(work)

    group.command(verb, help=help_text)(command)


_STAGE_HELP = {
    "ingest": "Bring the bars table up to date with its sources.",
    "stream": "Write an exchange's live bars into the bars table until SIGTERM.",
    "trade_bars": "Make bars of the ingested trades.",
    "book": "Replay the ingested order books into measures beside bars.",
    "funding": "Note which funding rates the books pay.",
    "quality": "Inspect the bars: keep, repair, quarantine or fail.",
    "features": "Compute causal features for every symbol.",
    "labels": "Compute labels, each with the time at which it is known.",
    "split": "Part time into train, validation and test, purged and embargoed.",
    "chunks": "Cut features and labels into the chunks that train workers read.",
    "train": "Fit every model of the recipe on Ray Train.",
    "backtest": "Trade every model's answers on the ledger, after costs.",
    "evaluate": "Score every model on the untouched test period.",
    "audit": "Look for leaks in a finished run; an error where there is one.",
    "register": "Log to MLflow, decide PROMOTE or HOLD, move the alias.",
    "report": "Write the run's HTML report.",
    "paper": "Trade on paper on the bars as they come, with a memory; never a real order.",
    "search": "Search settings of one model on Ray Tune over Ray Train.",
}
_COMPUTED = ("features", "labels", "trade_bars")
"""Stages that share their name with a kind of plugin: their verb is `compute`."""
_OWN = ("audit", "train")
"""Stages whose verb has options of its own."""
for _name, _help in _STAGE_HELP.items():
    if _name not in (*_COMPUTED, *_OWN):
        _stage_command(app, _name, _name, _help)


@app.command("audit", help=_STAGE_HELP["audit"])
def audit(recipe: RecipeArgument, override: SetOption = None, overwrite: OverwriteOption = False) -> None:
    def work() -> None:
        from quantfleet_jobs.audit import audit_run
        from quantfleet_jobs.recipe import load_recipe

        audit_run(load_recipe(recipe, override or ()), console=console, overwrite=overwrite)

    exit_with(work)


@app.command("train", help=_STAGE_HELP["train"])
def train(
    recipe: RecipeArgument,
    override: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from a checkpoint; an error where there is none.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print memory, steps, time and bottleneck; launch nothing.")
    ] = False,
    output: Annotated[str, typer.Option("--format", help="Of the plan: table or json.")] = "table",
    bandwidth_mb_s: Annotated[
        float, typer.Option("--bandwidth", min=0.001, help="Between workers, MB/s, for the plan.")
    ] = 1250.0,
) -> None:
    if output not in ("table", "json"):
        raise typer.BadParameter(f"{output!r} is neither table nor json.", param_hint="--format")

    def work() -> None:
        from quantfleet_jobs import train as job
        from quantfleet_jobs.main import perform
        from quantfleet_jobs.recipe import load_recipe

        resolved = load_recipe(recipe, override or ())
        if plan:
            job.plan(resolved, console, style="json" if output == "json" else "table", bandwidth_mb_s=bandwidth_mb_s)
            return
        if resume:
            from quantfleet_jobs.fits import check_resumable

            check_resumable(resolved)
        perform([job.STAGE], resolved, overwrite=overwrite, console=console)

    exit_with(work)


@app.command("export")
def export(
    recipe: RecipeArgument,
    model: Annotated[str, typer.Argument(help="A torch model of the recipe, by its label.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    newest: Annotated[
        bool, typer.Option("--newest", help="Of the newest checkpoint instead of the best epoch.")
    ] = False,
    output: Annotated[
        str, typer.Option("--format", help="safetensors: the weights; onnx: the network too.")
    ] = "safetensors",
    stream: Annotated[bool, typer.Option("--stream", help="onnx: one bar with carried state, not windows.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: matrix products and LSTMs in 8 bits.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="onnx: windows or streams that a call answers for.")] = 1,
    override: SetOption = None,
) -> None:
    """Write a fit's weights as one safetensors file, or its network as an ONNX graph that was proven equal; needs no cluster."""
    if output not in ("safetensors", "onnx"):
        raise typer.BadParameter(f"{output!r} is neither safetensors nor onnx.", param_hint="--format")
    if output == "onnx" and newest:
        raise typer.BadParameter("a graph is made of the best epoch; leave --newest away.", param_hint="--newest")
    if output != "onnx" and (stream or int8 or rows > 1):
        raise typer.BadParameter("--stream, --int8 and --rows say how a graph is made: add --format onnx.")

    def work() -> None:
        from quantfleet_jobs.fits import export_graph, export_weights
        from quantfleet_jobs.recipe import load_recipe

        resolved = load_recipe(recipe, override or ())
        if output == "onnx":
            export_graph(resolved, model, folder, console, stream=stream, int8=int8, rows=rows)
        else:
            export_weights(resolved, model, folder, console, newest=newest)

    exit_with(work)


@app.command("predict")
def predict(
    recipe: RecipeArgument,
    version: Annotated[int | None, typer.Option(help="Version of the registered model.")] = None,
    alias: Annotated[
        str | None, typer.Option(help="Alias of the registered model; champion when neither is given.")
    ] = None,
    override: SetOption = None,
) -> None:
    """Let the champion (or a version) answer for the latest bar of every symbol; its checksum is verified first."""

    def work() -> None:
        from quantfleet_jobs.latest import print_latest
        from quantfleet_jobs.recipe import load_recipe

        asked = [
            f"predict.{name}={value}" for name, value in (("version", version), ("alias", alias)) if value is not None
        ]
        print_latest(load_recipe(recipe, [*(override or ()), *asked]), console)

    exit_with(work)


@app.command("compare")
def compare(
    first: Annotated[str, typer.Argument(metavar="RECIPE_A", help="Recipe of an evaluated run.")],
    second: Annotated[str, typer.Argument(metavar="RECIPE_B", help="Recipe of another.")],
    first_run: Annotated[
        str | None, typer.Option("--run-a", help="Name of the first run, where it is not the recipe's.")
    ] = None,
    second_run: Annotated[str | None, typer.Option("--run-b", help="Name of the second run.")] = None,
    override: SetOption = None,
) -> None:
    """Compare two evaluated runs model by model on their common test bars, with paired tests."""

    def work() -> None:
        from quantfleet_jobs.compare import print_comparison
        from quantfleet_jobs.recipe import load_recipe

        pairs = ((first, first_run), (second, second_run))
        loaded = [load_recipe(r, [*(override or ()), *([f"run.name={n}"] if n else [])]) for r, n in pairs]
        print_comparison(loaded[0], loaded[1], console)

    exit_with(work)


@app.command("sensitivity")
def sensitivity(
    recipe: RecipeArgument,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Judge each trial by its best loss of so many epochs; the fewest any trial ran."),
    ] = None,
    least_r2: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Conclude nothing where the surrogate explains less of unseen trials."),
    ] = 0.5,
    override: SetOption = None,
) -> None:
    """Say which settings of a finished search matter: Sobol' indices of a surrogate of its trials, with intervals."""

    def work() -> None:
        from quantfleet_jobs.recipe import load_recipe
        from quantfleet_jobs.search_sensitivity import print_sensitivity

        print_sensitivity(load_recipe(recipe, override or ()), console, epochs=epochs, least_r2=least_r2)

    exit_with(work)


@app.command("submit")
def submit(
    job: Annotated[str, typer.Argument(help="Job to run on the cluster: run, train, search, ...")],
    recipe: RecipeArgument,
    address: Annotated[
        str, typer.Option(help="Ray dashboard, http://host:8265; RAY_API_SERVER_ADDRESS when absent.")
    ] = "",
    working_dir: Annotated[Path, typer.Option(help="Folder that travels to the cluster.")] = Path(),
    override: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Submit a job to a running Ray cluster and follow its log."""

    def work() -> None:
        if job not in (jobs := ("run", *_STAGE_HELP, "predict")):
            raise ConfigError(f"there is no job {job!r}.{nearest(job, jobs)} Jobs: {', '.join(jobs)}.")
        from quantfleet.cluster.submit import submit_job

        arguments = ["--config", recipe, *(part for value in override or () for part in ("--set", value))]
        arguments += ["--overwrite"] if overwrite else []
        submit_job(f"quantfleet_jobs.{job}", arguments, address=address, working_dir=working_dir)

    exit_with(work)


@app.command("doctor")
def doctor(
    root: Annotated[str | None, typer.Option(help="Storage root to test; .quantfleet when absent.")] = None,
    start_ray: Annotated[bool, typer.Option(help="Start a local Ray to prove that it works.")] = True,
) -> None:
    """Check versions, cores, memory, GPU, Ray, lake and registry."""

    def work() -> None:
        from quantfleet_jobs.doctor import diagnose

        if not diagnose(console, root=root, start_ray=start_ray):
            raise typer.Exit(1)

    exit_with(work)


app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

config_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command("show")
def config_show(recipe: RecipeArgument, override: SetOption = None) -> None:
    """Print the resolved recipe, each value with where it came from; secrets are masked."""

    def work() -> None:
        from quantfleet_jobs.recipe import load_recipe
        from quantfleet_jobs.show import show_config

        show_config(load_recipe(recipe, override or ()), console)

    exit_with(work)


def _registries() -> dict[str, PluginRegistry[Any]]:
    from quantfleet.backtest.paper import TRADERS
    from quantfleet.contracts import AUGMENTATIONS, FEATURES, LABELS, MODELS, SCALERS, SELECTORS, SOURCES, SPLITTERS
    from quantfleet.evaluation import METRICS
    from quantfleet.registry import GATES
    from quantfleet.training import SAMPLERS, STRATEGIES
    from quantfleet_data.trade_bars import TRADE_BARS

    data = (SOURCES, TRADE_BARS, FEATURES, LABELS, SPLITTERS, SELECTORS, SCALERS, AUGMENTATIONS)
    return {r.command: r for r in (*data, SAMPLERS, MODELS, STRATEGIES, TRADERS, METRICS, GATES)}


def _list_command(noun: str) -> None:
    group = typer.Typer(help=f"Registered {noun}.", no_args_is_help=True)
    app.add_typer(group, name=noun)
    stage = noun.replace("-", "_")
    if stage in _COMPUTED:
        _stage_command(group, "compute", stage, _STAGE_HELP[stage])
    if noun == "models":
        add_model_commands(group)
    if noun == "features":
        add_feature_commands(group)
    else:

        @group.command("list", help=f"List the registered {noun}.")
        def show() -> None:
            def work() -> None:
                from quantfleet_jobs.recipe import BUILT_IN_PLUGINS
                from quantfleet_jobs.show import show_plugins

                load_plugins(BUILT_IN_PLUGINS)
                show_plugins(_registries()[noun], console)

            exit_with(work)

    @group.command("describe", help="Settings of one of them, with defaults.")
    def describe(name: str) -> None:
        def work() -> None:
            from quantfleet_jobs.recipe import BUILT_IN_PLUGINS
            from quantfleet_jobs.show import show_plugin

            load_plugins(BUILT_IN_PLUGINS)
            show_plugin(_registries()[noun].get(name), console)

        exit_with(work)


_DATA_NOUNS = ("sources", "trade-bars", "features", "labels", "splitters", "selectors", "scalers", "augmentations")
for _noun in (*_DATA_NOUNS, "samplers", "models", "strategies", "traders", "metrics", "gates"):
    _list_command(_noun)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.print(quantfleet.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point `quantfleet`."""
    app()
