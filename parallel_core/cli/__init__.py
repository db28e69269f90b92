"""The command line: `shardlab COMMAND`. One file a command; each loads only what it needs."""

from __future__ import annotations

import importlib
import signal
import sys

import click

from parallel_core import __version__

COMMANDS = {
    "app": "open the web app on this machine",
    "run": "train for real, and compare with one process and with the prediction",
    "trace": "read a trace: where the time went, and in which form to keep it",
    "schedule": "simulate a pipeline's order, one of ours or your own; then run it",
    "collective": "run one collective message by message, or simulate it on a cluster",
    "loom": "cut a product of matrices over ranks, and hold it against one process",
    "link": "measure what a message costs here: latency and bandwidth",
    "deadlock": "let a classic hang happen on real ranks, and say who waits for whom",
    "museum": "plant a famous silent bug in a real run: the loss looks right, the probe is red",
    "parity": "hold every layout against one process, and say where one departs",
    "memory": "bytes a rank holds by ZeRO stage, and the largest model that fits",
    "compare": "layouts of one model side by side: speed, memory, traffic, loss",
    "bench": "measure our speed beside a peer's, interleaved in one run",
    "lesson": "list the lessons, or open one in Jupyter",
    "doctor": "say what this machine can run",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called: `--help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's own module, `parallel_core.cli.<name>_command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"parallel_core.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="shardlab")
@click.pass_context
def shardlab(ctx: click.Context) -> None:
    """ShardLab, the lab bench for LLM parallelism.

    \b
    Examples:
      shardlab app                         the web app, on 127.0.0.1
      shardlab run --dp 4 --steps 20       four real processes, one model
      shardlab run --dp 2 --json > run.json
      shardlab doctor                      what this machine can run
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """The entry point. Errors are one sentence; exit code 2 for a bad choice, 1 for a failure."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored: leave that
            signal.signal(number, _ended_from_outside)
    try:
        code = shardlab.main(prog_name="shardlab", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "shardlab"
        click.echo(f"{where}: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("cancelled", err=True)
        sys.exit(130)
    except click.ClickException as error:
        click.echo(f"shardlab: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except ValueError as error:  # PlanError, ProgramError, TraceError: sentences for the reader
        click.echo(f"shardlab: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:  # RunError: a rank failed
        click.echo(f"shardlab: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        click.echo(f"shardlab: {what}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _ended_from_outside(number: int, frame: object) -> None:
    """Leave by the front door, so that ranks end first, and say why."""
    click.echo(f"ended by {signal.Signals(number).name}", err=True)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
