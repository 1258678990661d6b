"""The one command. Each subcommand parses, calls one function, prints; parts are imported only when asked for."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While parts are imported nothing could catch it: Ctrl-C ends us at once instead of with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge.cli import DEFAULT_CONFIG, ConfigOption, keys, say
from edge.process import keep_memory_private, process_clock, run_until_signal, with_one_line_errors
from edge.process import named_folder as folder

# The matrices of one person are small: threads of the linear algebra mostly wait for one another. On two busy cores
# a what-if took 34 s with them and 6 s without, to the same last bit. It counts only before numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    name="hometwin",
    help="A digital twin of one person that lives at home. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ADVICE_TIMEOUT_S = 60.0  # a Raspberry Pi simulates for some seconds

advice_app = typer.Typer(help="Approved advice on the running hub: list it, say what was done, ask for more.")
app.add_typer(advice_app, name="advice")
app.add_typer(keys, name="keys")


@app.command()
def hub(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the hub: radio, store, threshold alarms, sync."""
    # The hub lives for months on a small machine, so it becomes a process of its own without this command
    # line's libraries, which would stay in memory (12 MiB). Ctrl-C waits until it can say so without a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(sys.executable, [sys.executable, "-P", "-m", "edge.hub_main", str(config)])  # noqa: S606


@app.command()
def engine(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the engine: the twin's numerics, behind the hub's Unix socket."""
    from edge.config import load_config
    from edge.engine import serve_engine
    from edge.logs import configure_logs

    settings = load_config(config)
    configure_logs("engine", settings.log_level)
    keep_memory_private(lock=True)
    run_until_signal(serve_engine(settings.engine_socket))


@app.command()
def cloud(
    config: Annotated[Path, typer.Option("--config", "-c", help="The cloud's TOML file.")] = Path(
        "/etc/hometwin/cloud.toml"
    ),
) -> None:
    """Run the cloud twin: ingest, prior, adviser, portal."""
    from cloud.config import load_config
    from cloud.process import run
    from edge.logs import configure_logs

    settings = load_config(config)
    configure_logs("cloud", settings.log_level)
    keep_memory_private(lock=False)  # numbers of many people take room; swap is its machine's own matter
    run_until_signal(run(settings, process_clock()))


@app.command()
def demo(
    recording: Annotated[
        Path | None, typer.Option(help="Event file to play; without one a virtual person.")
    ] = None,
    speed: Annotated[float, typer.Option(help="How many times faster than life.", min=1, max=5000)] = 300.0,
    for_: Annotated[
        str, typer.Option("--for", help="How long to play, in the person's time: 6h, 2d.")
    ] = "2d",
    from_: Annotated[str, typer.Option("--from", help="Where to start, e.g. 2023-11-06T00:00.")] = "",
    timezone: Annotated[str, typer.Option(help="Zone of the recording's clock.")] = "Europe/London",
    seed: Annotated[int, typer.Option(help="Which virtual person.", min=0)] = 0,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything there (default: a new one).")
    ] = None,
    portal_port: Annotated[int, typer.Option(help="Port of the portal.", min=1, max=65535)] = 8080,
    approval: Annotated[
        str, typer.Option(help="demo: advice passes by itself; clinician: approve it in the portal.")
    ] = "demo",
) -> None:
    """Start air, sensors, hub, engine, broker and cloud on this machine, and watch them live."""
    from edge.config import RESERVED_VARIABLES
    from edge.demo.demo import DemoPlan, run_demo

    unheeded = sorted(n for n in os.environ if n.startswith("HOMETWIN_") and n not in RESERVED_VARIABLES)
    if unheeded:
        typer.echo(f"the demo makes its own hub, of which {', '.join(unheeded)} sets nothing", err=True)
    plan = DemoPlan(
        recording=recording,
        speed=speed,
        length=for_,
        start=from_,
        timezone=timezone,
        seed=seed,
        folder=folder,
        portal_port=portal_port,
        approval=approval,
    )
    run_until_signal(run_demo(plan))


@app.command()
def replay(
    events: Annotated[
        Path,
        typer.Argument(
            help="A recording: our event CSV, or a Nightscout, Tidepool, Clarity or LibreView export."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the forecasts, figures and report.", parser=folder)],
    patient: Annotated[Path | None, typer.Option(help="The patient file (TOML).")] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model; default: the patient file's, else glucose.")
    ] = None,
) -> None:
    """Run the on-device pipeline over a recording, causally, and score it."""
    from edge.replay.command import replay as run

    for line in run(events, patient, model, out):
        typer.echo(line)


@app.command()
def trial(
    plan: Annotated[Path, typer.Argument(help="The plan: a TOML file (docs/trials.md).")],
    out: Annotated[Path, typer.Option(help="Folder for results; give it again to go on.", parser=folder)],
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.", min=0, max=1024)] = 0,
    scheduler: Annotated[
        str, typer.Option(help="Address of a running Dask scheduler, e.g. tcp://host:8786.")
    ] = "",
) -> None:
    """Run an in-silico trial: policies on virtual people, with a report. Resumes where it was stopped."""
    from cloud.trials.command import trial as run

    for line in run(plan, out, workers, scheduler):
        typer.echo(line)


@app.command()
def whatif(
    events: Annotated[Path, typer.Argument(help="A recording, as for replay.")],
    from_: Annotated[str, typer.Option("--from", help="Where the window begins: 2026-01-31T12:00, local.")],
    to: Annotated[str, typer.Option(help="Where it ends.")],
    do: Annotated[
        list[str],
        typer.Option(
            help="What is done differently; may be given more than once. 'bolus_u*=0.7', 'carbs_g@2026-01-31T12:30=0' (that meal"
            " not eaten), 'bolus_u<<15' (minutes earlier; >> later), 'basal_uph@T..T+=0.1', 'heart_rate_bpm@T..T=125', 's*=0.8'"
            " (insulin sensitivity; egp0, tg, ag, ti). All of it: docs/whatif.md."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table and the report.", parser=folder)],
    patient: Annotated[Path | None, typer.Option(help="The patient file (TOML).")] = None,
    draws: Annotated[int, typer.Option(help="How many people to draw.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
) -> None:
    """Ask what would have been, or would be, had something been done differently."""
    from edge.whatif.command import whatif as run

    for line in run(events, patient, from_, to, do, out, draws, seed):
        typer.echo(line)


@app.command()
def effect(
    events: Annotated[
        list[Path], typer.Argument(help="Recordings, as for replay; of a hub: events.csv of its export.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table and the report.", parser=folder)],
    patient: Annotated[
        list[Path] | None, typer.Option(help="Patient file (TOML): one for all, or one for each recording.")
    ] = None,
    above: Annotated[
        float | None,
        typer.Option(help="Glucose above which corrections are thought of, mg/dL; default: by the record."),
    ] = None,
    after: Annotated[float, typer.Option(help="Glucose is looked at so many minutes later.")] = 120.0,
    ill: Annotated[
        list[str] | None,
        typer.Option(help="When the person was ill: TIME..TIME; may be given more than once."),
    ] = None,
    never_ill: Annotated[
        bool, typer.Option("--never-ill", help="The person was not ill in this time.")
    ] = False,
    never_active: Annotated[
        bool, typer.Option("--never-active", help="There was no exercise (when no heart rate is on record).")
    ] = False,
    twin: Annotated[bool, typer.Option(help="Ask the twin the same question, as a check of it.")] = True,
    draws: Annotated[int, typer.Option(help="The twin's draws at each correction.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
) -> None:
    """Ask records what a correction does to glucose: adjusted for why it was given, or refused with the reason."""
    from edge.effect.command import effect as run

    for line in run(
        events, patient or (), out, above, after, ill or (), never_ill, never_active, twin, draws, seed
    ):
        typer.echo(line)


@app.command()
def advise(
    events: Annotated[Path, typer.Argument(help="A recording, of any format that replay reads.")],
    at: Annotated[
        str, typer.Option(help="The moment: 2026-01-31T12:30 (the person's clock, or with a zone).")
    ],
    carbs: Annotated[float, typer.Option(help="Carbohydrate about to be eaten, g.")] = 0.0,
    question: Annotated[
        str | None, typer.Option(help="meal, correction, basal or now. Default: meal with carbs, else now.")
    ] = None,
    patient: Annotated[Path | None, typer.Option(help="The patient file (TOML).")] = None,
    draws: Annotated[int, typer.Option(help="Simulated courses; at least 299.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Ask the twin for a dose at one moment of a recording. Research software: do not dose by it."""
    from edge.advise import advice_json, advice_lines, no_patient_words
    from edge.advise import advise as ask

    answer, zone, at_us = ask(events, patient, at, carbs, question, draws)
    if patient is None:
        typer.echo(no_patient_words(), err=as_json)  # JSON stays JSON; its assumptions are in it
    typer.echo(advice_json(answer) if as_json else "\n".join(advice_lines(answer, zone, at_us)))


@app.command()
def pair(
    config: ConfigOption = DEFAULT_CONFIG,
    seconds: Annotated[float, typer.Option(help="How long to listen.", min=1, max=120)] = 10.0,
) -> None:
    """Listen for health devices and print what to add to the configuration to pair with them."""
    from edge.config import load_config
    from edge.pairing import print_nearby

    run_until_signal(print_nearby(load_config(config), seconds))


@app.command()
def provision(
    folder: Annotated[Path, typer.Argument(help="Where to put authority, broker, cloud and hub files.")],
    hub_id: Annotated[list[str], typer.Option("--hub", help="A hub's name; may be given more than once.")],
    host: Annotated[
        str | None,
        typer.Option(help="Name or address under which hubs reach the broker. First time: localhost."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The broker's TLS port. First time: 8883.", min=1, max=65535)
    ] = None,
) -> None:
    """Make certificates and keys for broker, cloud and hubs. Running it again adds what is missing."""
    from edge.starter import broker_address, naming_another, remember_address, write_starters
    from sync.provision import provision as make

    host, port = broker_address(folder, host, port)
    made = [*make(folder, hub_id, host, port), *write_starters(folder, hub_id, host, port)]
    remember_address(folder, host, port)
    for path in made:
        typer.echo(f"made {path}")
    for path in naming_another(folder, host, port):
        typer.echo(f"edit {path}: it names another broker than {host}:{port}")
    typer.echo(f"next: copy {folder}/hubs/HUB to each hub, start mosquitto -c {folder}/broker/mosquitto.conf")


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends in .zip.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write everything that the hub holds of the person in open formats (CSV, JSON), explained in README.txt. The hub stays up."""
    from edge.config import load_config
    from edge.export import export as write

    say(write(load_config(config), target))


@app.command()
def audit(
    as_json: Annotated[
        bool, typer.Option("--json", help="The lines as they are, to check their chain.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show who did what when, and check that no entry was changed, dropped or put in.

    Where no hub runs this opens the store as the hub does at its start: a damaged one is repaired and set aside.
    """
    from edge.audit_command import audit_lines
    from edge.config import load_config

    say(audit_lines(load_config(config), as_json))


@app.command()
def memory(
    everything: Annotated[
        bool, typer.Option("--all", help="Every night and every episode, each with why it is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show what the twin has learned: contexts of life, each parameter's prior and data, and what is kept and why."""
    from edge.config import load_config
    from edge.memory_command import memory_lines

    say(memory_lines(load_config(config), as_json=as_json, everything=everything))


@app.command()
def erase(
    confirm: Annotated[
        str, typer.Option(help="The hub's name, instead of typing it when asked.", metavar="HUB_ID")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Destroy the person's record on this hub: keys first, then files. Nobody can undo it."""
    from core.errors import InputError
    from edge.config import load_config
    from edge.erase_command import WARNING, erase

    settings = load_config(config)
    for line in WARNING:
        typer.echo(line.format(hub=settings.hub_id))
    try:
        typed = confirm or typer.prompt(f"Type {settings.hub_id} to erase")
    except typer.Abort:
        mend = f"type {settings.hub_id}, or give it as --confirm"
        raise InputError("nothing was erased: nothing was typed", where="erase", mend=mend) from None
    say(erase(settings, typed))


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show how the running hub is."""
    from edge.config import load_config
    from edge.control import ask_hub
    from edge.keys_command import trouble_at_next_start
    from edge.status_text import status_lines

    settings = load_config(config)
    answer = ask_hub(settings.control_socket, {"do": "status"})
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    say(status_lines(answer))
    if trouble := trouble_at_next_start(settings, lambda request: ask_hub(settings.control_socket, request)):
        typer.echo(f"key       {trouble}")


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is a number, and told to be a wrong one
def log(
    what: Annotated[
        str, typer.Argument(help="carbs, bolus, long-acting, fingerstick, weight, drug, or a kind.")
    ] = "",
    value: Annotated[float | None, typer.Argument(help="Grams, units, mg/dL … as the kind says.")] = None,
    at: Annotated[
        str,
        typer.Option(
            help="When, by the hub's clock: 12:30 (today, or up to 6 h ago across midnight), or 2026-01-31T12:30. "
            "Default: now."
        ),
    ] = "",
    unit: Annotated[str, typer.Option(help="mmol/L for a fingerstick in mmol/L.")] = "",
    replace: Annotated[
        str, typer.Option(help="Correct an older entry: its SOURCE:NUMBER, e.g. hand:1767602981424.")
    ] = "",
    delete: Annotated[str, typer.Option(help="Take an older entry back: its SOURCE:NUMBER is enough.")] = "",
    sure: Annotated[
        bool, typer.Option("--sure", help="Store a bolus that is far above the usual ones: it is right.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Enter a meal, dose or reading by hand. Corrections are new records; nothing is ever overwritten."""
    from edge.config import load_config
    from edge.control import ask_hub
    from edge.hand_words import hand_request

    request = hand_request(what, value, at, unit, replace, delete, sure)
    answer = ask_hub(load_config(config).control_socket, request)
    if answer.get("unsure"):
        typer.echo(f"hometwin: nothing was stored: {answer['said']}", err=True)
        raise typer.Exit(2)
    typer.echo(answer["said"])
    if not delete:
        typer.echo(f"to take it back: hometwin log --delete {answer['source']}:{answer['seq']}")


@app.command()
def entries(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """List what was entered by hand and what sensors reported of meals and doses in the last day."""
    from edge.config import load_config
    from edge.control import ask_hub

    for line in ask_hub(load_config(config).control_socket, {"do": "entries"})["entries"]:
        typer.echo(line)


@advice_app.callback(invoke_without_command=True)
def advice(context: typer.Context, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """List the advice that this hub holds, each with its state."""
    from edge.advice_text import advice_lines
    from edge.config import load_config
    from edge.control import ask_hub

    context.obj = config
    if context.invoked_subcommand is None:
        settings = load_config(config)
        answer = ask_hub(settings.control_socket, {"do": "advice"})
        typer.echo("\n".join(advice_lines(answer, settings.zone)))


@advice_app.command("confirm")
def advice_confirm(
    context: typer.Context,
    advice_id: Annotated[str, typer.Argument(help="The advice, as listed.")],
    took: Annotated[
        float | None,
        typer.Option(help="Units really taken; 0: not followed. Default: as advised, unless it is void."),
    ] = None,
    sure: Annotated[
        bool, typer.Option("--sure", help="Note a dose that is far from the advised one: it is right.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The hub's TOML file.")] = None,
) -> None:
    """Say what was done about a piece of advice. It enters no dose: your pump, or `hometwin log`, does."""
    from edge.config import load_config
    from edge.control import ask_hub

    request = {"do": "confirm", "advice_id": advice_id, "took_u": took} | ({"sure": True} if sure else {})
    answer = ask_hub(load_config(config or context.obj).control_socket, request)
    if answer.get("unsure"):
        typer.echo(f"hometwin: nothing was noted: {answer['said']}", err=True)
        raise typer.Exit(2)
    typer.echo(answer["said"])


@advice_app.command("ask")
def advice_ask(
    context: typer.Context,
    carbs: Annotated[float, typer.Option(help="Carbohydrate about to be eaten, g.")] = 0.0,
    question: Annotated[str | None, typer.Option(help="meal, correction, basal or now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The hub's TOML file.")] = None,
) -> None:
    """Ask this hub's own twin, as far as a standing policy of your clinician allows it."""
    from edge.advice_text import advice_lines
    from edge.config import load_config
    from edge.control import ask_hub

    settings = load_config(config or context.obj)
    request = {"do": "ask", "carbs_g": carbs, "question": question}
    row = ask_hub(settings.control_socket, request, ADVICE_TIMEOUT_S)["advice"]
    typer.echo(
        json.dumps(row, indent=1) if as_json else "\n".join(advice_lines({"advice": [row]}, settings.zone))
    )


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def sim(
    context: typer.Context,
    part: Annotated[str, typer.Argument(help="air, sensors or person; --help after it tells more.")],
) -> None:
    """Run one part of the virtual world: the air, its sensors, or print a virtual person's patient file."""
    import runpy

    import firmware_sim
    from core.errors import InputError

    if part in ("--help", "-h"):
        typer.echo(firmware_sim.HELP)
        return
    if part not in ("air", "sensors", "person"):
        raise InputError(f"unknown part {part[:40]!r}", where="sim", mend="use air, sensors or person")
    sys.argv = [f"hometwin sim {part}", *context.args]
    runpy.run_module(f"firmware_sim.{part}", run_name="__main__", alter_sys=True)


def main() -> None:
    """Run the command; errors of ours become one line and an exit code."""
    with_one_line_errors(_run)


def _run() -> None:
    from edge.logs import configure_logs

    configure_logs("command", "warning")  # to stderr: what a command prints is its answer and nothing else
    keep_memory_private(lock=False)  # nearly every command holds a key, words that stand for one, or readings
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    app()


def _end(number: int, _frame: object) -> None:
    """Like Ctrl-C: what a command had begun (an export in clear) it removes."""
    raise SystemExit(128 + number)


if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    main()
