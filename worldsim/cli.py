"""The `worldsim` command: a table of subcommands, each a function and the settings that tyro makes flags of.

A module is imported only when its command is asked for: help is instant, `worldsim record` needs no torch.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from worldsim.errors import exit_on_user_error
from worldsim.threads import spin_beside_a_spare_core, spin_briefly


@dataclass(frozen=True)
class Command:
    """One subcommand: the words that call it, where its function is, and its line in the help."""

    words: tuple[str, ...]
    target: str
    """`module:function`. The flags are the fields of its `settings`, or its parameters if it takes no settings."""
    summary: str
    report: str = ""
    """File in the folder `settings.out` to print when the command is done."""
    plays: bool = False
    """It plays one world step by step, as `play.py` does; others have more to do at once, or processes of their own."""

    def load(self) -> Callable[..., object]:
        (spin_beside_a_spare_core if self.plays else spin_briefly)()
        module, name = self.target.split(":")
        function: Callable[..., object] = getattr(import_module(module), name)
        return function

    def run(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call `function`, then print the report that it wrote, or else the figures that it returned."""
        result = function(*args, **kwargs)
        if self.report:
            print((args[0].out / self.report).read_text(encoding="utf-8"))
        elif is_dataclass(result) and not isinstance(result, type):
            print_figures(asdict(result))
        elif isinstance(result, dict):
            print_figures(result)


def print_figures(figures: dict[str, Any]) -> None:
    """One line a figure; three decimals are more than any of them is worth."""
    for name, value in figures.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


COMMANDS = (
    Command(
        ("record",),
        "worldsim.record:record",
        "record a scripted player in the maze, in many processes",
    ),
    Command(
        ("train", "autoencoder"),
        "worldsim.training.autoencoder:train_autoencoder",
        "first: frames to latents and back",
    ),
    Command(
        ("train", "descriptor"),
        "worldsim.training.descriptor:train_descriptor",
        "second: what the memory recognises places by",
    ),
    Command(
        ("train", "odometer"),
        "worldsim.training.odometer:train_odometer",
        "third: where frames were seen from, told by actions and views",
    ),
    Command(
        ("train", "model"),
        "worldsim.training.model:train_model",
        "fourth: the transformer that makes the frames",
    ),
    Command(
        ("average",),
        "worldsim.averaging:average_checkpoints",
        "one transformer out of several trainings', by the mean of their weights",
    ),
    Command(
        ("schedule",),
        "worldsim.schedule_page:show_schedule",
        "what a FramePack schedule makes of every history frame",
    ),
    Command(
        ("demo",),
        "worldsim.demo:run_demo",
        "look away, wait, look back: a video with and without memory",
        plays=True,
    ),
    Command(
        ("walk",),
        "worldsim.walk_film:run_walk",
        "walk a long way away and back: a video with and without memory",
        plays=True,
    ),
    Command(
        ("rollout",),
        "worldsim.rollout:run_rollout",
        "play a recorded action list: forwards, with planned ends or inverted, as the schedule says",
    ),
    Command(
        ("evaluate", "replay"),
        "worldsim.cli:evaluate_replay",
        "do recorded episodes replay bit for bit in the engine?",
    ),
    Command(
        ("evaluate", "autoencoder"),
        "worldsim.evaluation.autoencoder:run_autoencoder",
        "what encoding and decoding loses: the ceiling of every other figure",
        "autoencoder.md",
    ),
    Command(
        ("evaluate", "codebook"),
        "worldsim.evaluation.codebook:run_codebook",
        "what is left of latents when every pixel becomes its nearest of K codes",
        "codebook.md",
    ),
    Command(
        ("evaluate", "recall"),
        "worldsim.evaluation.recall:run_recall",
        "does memory find the frames that show the coming view? no frame is made",
        "recall.md",
    ),
    Command(
        ("evaluate", "revisits"),
        "worldsim.evaluation.revisits:run_revisits",
        "are visited places rebuilt? every memory mode under the same weights",
        "revisits.md",
    ),
    Command(
        ("evaluate", "drift"),
        "worldsim.evaluation.drift:run_drift",
        "how far long free rollouts drift from real play",
        "drift.md",
    ),
    Command(
        ("evaluate", "benchmark"),
        "worldsim.benchmark.benchmark:run_benchmark",
        "the whole revisit benchmark: recorded routes, recall alone, true and own history, one page",
        "benchmark.md",
    ),
    Command(
        ("ablate",),
        "worldsim.ablation.ablate:run_ablation",
        "train and judge the variants of a suite under one budget, and compare them in a table",
    ),
    Command(
        ("compare",),
        "worldsim.ablation.compare:run_comparison",
        "a page on this machine that shows two clips at a time and rates variants by what you choose",
    ),
    Command(
        ("bench", "step"),
        "worldsim.bench:bench_step",
        "how long one input step takes, part by part, with little and with much in memory",
        plays=True,
    ),
    Command(
        ("bench", "train"),
        "worldsim.bench_training:bench_training",
        "what a packed context saves in training, against the same frames unpacked",
    ),
    Command(
        ("bench", "recording"),
        "worldsim.bench_recording:bench_recording",
        "how much of the bare engine's rate recording reaches",
    ),
)

SUMMARY = "Record real worlds, train a world model on them, and measure how well it remembers."


def evaluate_replay(data: tyro.conf.Positional[Path], workers: int | None = None) -> None:
    """Replay recorded episodes in the engine: every frame and pose must come out the same, bit for bit.

    The exit code is 1 if anything differs.

    Args:
        data: Folder of recorded episodes.
        workers: Processes, each with an engine; None takes all cores.
    """
    from worldsim.replay import replay

    report = replay(data, workers)
    print(report.table())
    if not report.exact:
        raise SystemExit(1)


def overview(prefix: tuple[str, ...]) -> str:
    """Help for `worldsim` itself or for a group of commands such as `worldsim train`."""
    chosen = [command for command in COMMANDS if command.words[: len(prefix)] == prefix]
    width = max(len(" ".join(command.words)) for command in chosen)
    lines = [f"usage: {' '.join(('worldsim', *prefix))} COMMAND [flags]", "", SUMMARY, "", "commands:"]
    lines += [f"  {' '.join(command.words):{width}}  {command.summary}" for command in chosen]
    return "\n".join([*lines, "", "worldsim COMMAND --help shows its flags with their defaults and units."])


def find_command(arguments: Sequence[str]) -> Command | None:
    """The command that `arguments` begin with, or None if they name only a group of commands or nothing.

    Raises ValueError for words that are neither a command nor a group.
    """
    for command in COMMANDS:
        if tuple(arguments[: len(command.words)]) == command.words:
            return command
    words = tuple(word for word in arguments if not word.startswith("-"))
    if any(command.words[: len(words)] == words for command in COMMANDS):
        return None
    known = ", ".join(" ".join(command.words) for command in COMMANDS)
    raise ValueError(f"'worldsim {' '.join(words)}' is not a command; the commands are: {known}")


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """What `arguments` ask for, ready to be called.

    Raises SystemExit when help is asked for (0) or a flag is wrong (2), ValueError for an unknown command.
    """
    if "--version" in arguments[:1]:
        print(f"worldsim {version('worldsim')}")
        raise SystemExit(0)
    command = find_command(arguments)
    if command is None:
        print(overview(tuple(word for word in arguments if not word.startswith("-"))))
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    function = command.load()
    run = functools.partial(command.run, function)
    flags: dict[str, Any] = {
        "prog": " ".join(("worldsim", *command.words)),
        "args": list(arguments[len(command.words) :]),
    }
    settings_type = get_type_hints(function).get("settings")
    if settings_type:
        return functools.partial(run, tyro.cli(settings_type, **flags))

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(run, *args, **kwargs)

    bound: Callable[[], None] = tyro.cli(bind, **flags)
    return bound


@exit_on_user_error()
def main() -> None:
    """Entry point of the `worldsim` command."""
    parse(sys.argv[1:])()


if __name__ == "__main__":
    main()
