"""What an export says of itself: a text for each file, a meaning for each column, and the README.txt that holds them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from core.units import KINDS
from core.version import VERSION

WIDTH: Final = 100


class About(NamedTuple):
    """Of one file: what it is, and what its columns or fields mean."""

    text: str
    fields: Mapping[str, str] = {}


_ITEM: Final = {
    "number": "the store's own number of the item; it rises with time, and has gaps",
    "time_us, time": "when the item was stored",
}
_VALUES: Final = {
    "values[].name, unit, mean, sd": "each value with its unit and standard deviation",
    "covariance": "of all values, lower triangle by rows (11, 21, 22, 31 …), in the order of names",
}
_EVENT: Final = {
    "time": "when it happened",
    "kind": "what it is, with its unit: see Kinds",
    "value": "in the unit of the kind",
}
FILES: Final[dict[str, About]] = {
    "README.txt": About("This text."),
    "manifest.json": About(
        "Each file with a sentence on it, its size and SHA-256; what is missing and what is left out.",
        {
            "rows, rows_missing": "rows were numbered up to here; [first, last] of those that damage took",
            "rows_thinned": "[first, last, how many]: spans of rows whose readings went into the averages of aggregates.csv; what"
            " stayed bears the first numbers of its span. Hubs of before did not note them: theirs are among rows_missing",
            "readings_thinned, rows_lost": "how many readings are averages now; how many records damage took",
            "rows_returned": "newer rows that the cloud gave back (quality 32); what sensors told again is not counted",
            "rows_lost_before_repair": "true: a repair found that more may be lost than anybody can count",
            "unreadable": "items of another version than this program's, by file: they stand there as they are stored",
            "not_included": "what is left out, with the reason",
            "audit_newest": "BLAKE2b-256 of the last line of audit.jsonl",
            "store_generation": "how many times the store was written: it never falls unless the store is put back to an old copy",
        },
    ),
    "samples.csv": About(
        "The record itself: every reading of a device and everything that was typed in, in the order in which the hub stored"
        " it, with what was corrected or deleted later.",
        {
            "row": "the store's number; 1, 2, 3 …; missing ones are told in manifest.json",
            **_EVENT,
            "value": "in the unit of the kind; nan or inf where the device said so: that is no measurement",
            "source": "which device or person said so: a name of settings.json (device), or hand, command",
            "seq": "the source's own number of the record; with source and kind it names the record",
            "quality": "what is known against it, bits added together: see Quality",
            "received": "when the hub had stored it, by the hub's clock",
            "amends_source": "this record takes the place of the record of this source",
            "amends_seq": "… and this seq, of the same kind; both empty: it replaces none",
            "deleted": "1: the replaced record never happened, and this one's value means nothing; else 0",
            "steady_us": "microseconds on the hub's clock that never jumps, since its machine started, at the same moment as"
            " received; 0: not known",
        },
    ),
    "events.csv": About(
        "What stands of the record today: without what was deleted, corrections in place of what they correct, and only"
        " values that such a device can mean. `hometwin replay` reads it.",
        _EVENT,
    ),
    "aggregates.csv": About(
        "Averages of old readings whose rows were given up to save room (`[store] raw_days` of the settings, or a full disk).",
        {
            "start": "of the span",
            "width_s": "its length in seconds",
            "kind": "as in samples.csv; mean, min, max and sd are in its unit",
            "source": "as in samples.csv",
            "count": "readings that are averaged; 0: none was good, and mean, min, max, sd are empty",
            "mean": "of them",
            "min": "of them",
            "max": "of them",
            "sd": "standard deviation, by count",
            "doubtful": "further readings in the span that were flagged (Quality 1, 4 or 16) or absurd: counted, not averaged",
        },
    ),
    "audit.jsonl": About(
        "The audit log, one JSON object a line: hand entries, what the cloud sent, changes of keys, repairs, thinning, starts,"
        " clock jumps. Never a reading or a dose.",
        {
            "number, time_us": "1, 2, 3 …, and when (microseconds since 1970, UTC)",
            "who, what, detail": "hub, owner, person or cloud; what was done; the particulars",
            "previous": "BLAKE2b-256 of the line before without its line end: `sed -n 1p audit.jsonl | tr -d '\\n' | b2sum -l 256`"
            " must be what line 2 says",
        },
    ),
    "alarms.json": About(
        "Alarms that were raised and cleared, oldest first.",
        {
            **_ITEM,
            "content.number": "rises with each change",
            "content.time_us, time": "when it was raised or cleared",
            "content.name": "urgent_low, low, predicted_low, high, urgent_high, signal_loss, store_failed, engine_down,"
            " store_repaired, store_space",
            "content.level": "how loud: 0 shown only, 1 mild (a wearable buzzes), 2 high (Bluetooth's Alert Level)",
            "content.raised": "true: raised, false: cleared",
            "content.value": "what crossed the threshold, mg/dL; null where there is none",
            "content.data_age_s": "seconds since the newest reading; null before the first",
            "content.delivered": "whether a wearable had confirmed it when this was stored",
        },
    ),
    "posterior.json": About(
        "The twin's estimate of state and parameters, one a day: how the person changes.",
        {
            **_ITEM,
            "content.names, units, mean": "the same as lists. Names that begin with ln_ are natural logarithms of multiples of"
            " the published values (unit 1)",
            **{f"content.{name}": text for name, text in _VALUES.items()},
            "content.output_mean, output_sd": "glucose at the sensor, mg/dL",
            "content.nis": "squared surprise of the last reading in units of its variance; null before the first",
            "content.data_age_s": "seconds since the newest reading used; null before the first",
            "content.status": "ok, warming_up, stale or diverged",
        },
    ),
    "nights.json": About(
        "What each night's learning decided.",
        {
            **_ITEM,
            "content.context": "what was going on: a context of memory.json",
            "content.accepted, why": "whether the new parameters were taken, and if not, why",
            "content.parameters": "of each: name, words, mean and sd after the night, base_mean and base_sd of the prior: all natural"
            " logarithms of multiples of the published value; multiple = exp(mean), so 1.2 means a fifth more",
            "content.names, mean, sd, base_mean, base_sd": "the same as bare lists, in the order of names",
            "content.rehearsal": "of each stratum of episodes that were played again: how many, and how the score of the forecasts"
            " would have changed, nats an episode (content.strata: the same as bare lists)",
            "content.readings, seconds, source": "readings used; seconds of work; where the prior comes from",
        },
    ),
    "replay.json": About(
        "Pieces of the record (a quarter of a day each) that learning plays again before it takes new parameters.",
        {
            **_ITEM,
            "content.from_us, from": "where the piece begins; it lasts 6 h",
            "content.stratum, context": "what kind of time it was; the number of the context in memory.json",
            "content.level": "0 to 7, drawn by lot: the lowest go first when there is no room",
            "content.told_nats": "how much it tells of the parameters, nats",
            "content.start.state": "the filter's state at the beginning: name, words, unit, mean, sd",
            "content.start.inputs, scalars": "what was flowing and known at the beginning, with units",
            "content.events": "how many rows of replay_events.csv belong to it",
        },
    ),
    "replay_events.csv": About(
        "What happened in those pieces. It is part of samples.csv, kept again in single precision.",
        {"episode": "number of the item in replay.json", **_EVENT},
    ),
    "memory.json": About(
        "What learning keeps of the person: contexts of life, what is known of the parameters in each, the last days.",
        {
            "names, words, units": "the parameters; every bare list of 15 numbers is in this order",
            "contexts": "stretches of life; number 0 is the usual one; to_us 0: it lasts",
            "anchors": "of each context: the prior (base_mean, base_sd, natural logarithms), and the information of its nights:"
            " precision (inverse covariance, lower triangle by rows) and vector (precision times mean), without the prior,"
            " of as many as nights says; recent holds those that are not merged yet; lean: what the vectors are short of",
            "look": "sums of evidence (nats) that the context changes; times of 0: never",
            "days": "of each day: resting heart rate (1/min), minutes active, carbohydrate (g), mean local hour of meals,"
            " insulin by bolus (U), evidence for a shift by day less that by night (nats); null where nothing was measured",
        },
    ),
    "twin.json": About(
        "The twin's newest state in words: what the next forecast begins from.",
        {
            "row": "of samples.csv, up to which it has seen the record",
            "state": "name, words, unit, mean, sd; covariance as in posterior.json",
            "inputs, constants": "what flows now; this person's constants of the model, with units",
            "assumed": "what was not known of the person, and where it was taken from",
            "correction": "what was learned of the model's own errors: for each horizon (columns) the weight of each of 67 features"
            " (rows; core/correction.py: features), mg/dL a standard deviation, and half widths of the bands by glucose range",
            "guidance": "what learning told the filter: open (widen the variance by factor), move, pull or shift the five ln_"
            " parameters of state (theta, in that order, with covariance)",
            "sensor_clocks, outliers": "how late each sensor's readings came, by the hour; readings not believed",
        },
    ),
    "twin.msgpack": About(
        "The engine's checkpoint: for restoring the twin to the last bit, not for reading (that is twin.json and memory.json)."
        " MessagePack map: row; data (8 bytes of magic, BLAKE2b-256 of the rest, then zlib of a MessagePack map, see"
        " core/snapshot.py); memory (MessagePack, core/memory.py). Any MessagePack reader opens it, in Python:"
        " msgpack.unpackb(open('twin.msgpack', 'rb').read()).",
    ),
    "advice.json": About(
        "Advice that the cloud sent or the hub gave, the newest 20.",
        {
            "action, dose_u, carbs_g, eat_g": "what it advises; insulin in U, carbohydrate in g",
            "p_below_70, p_below_54": "upper bounds of the chance of such glucose within horizon_min minutes",
            "ladder": "rows of [U, bound of P(<70), bound of P(<54)]",
            "band, band_without": "rows of [minutes, 5 %, median, 95 %] in mg/dL, with the dose and without",
            "refused, reasons, limits, why, changes": "in words",
            "approved_by": "who approved it, and how",
        },
    ),
    "advice_notes.json": About(
        "What became of each piece of advice, by advice_id.",
        {
            "expires_us": "until when it stands",
            "since_us": "when the hub had it first (0: not kept)",
            "void, void_us": "why it must not be used (empty: it may), and when it was withdrawn after it had been shown (0: it"
            " was not)",
            "void_word": "why, as the cloud is told it",
            "confirmed_us, took_u": "when the person said what was done (0: never), and how much insulin it was (U)",
        },
    ),
    "policy.json": About(
        "What a clinician allows the hub to advise alone; null: nothing.",
        {
            "questions": "what it may be asked",
            "max_dose_u, max_iob_u, max_per_day": "greatest dose, and insulin on board with it (U); how many a day",
            "target_mgdl, carb_ratio_g_per_u, correction_mgdl_per_u": "what it is to aim at, g of carbohydrate and mg/dL for one U",
            "expires_us, approved_by, approved_us, note": "until when; who approved it, when, and with which words",
        },
    ),
    "prior.json": About(
        "What the cloud says of people like this one, from which learning begins; null: the shipped one.",
        {
            **_VALUES,
            "correction": "where the correction of twin.json begins, as distance from the shipped weights; base64 where it is"
            " of another version",
        },
    ),
    "hub.json": About(
        "What the hub remembers of its own work.",
        {
            "repair": "the last repair of the store: when, why, records kept, damaged, distrusted and lost by table, segments unproven",
            "refill": "sensors that are asked again for what was lost: after which number, and which one ends it",
            "lost": "spans (microseconds since 1970, UTC) that the cloud was asked for, and how many records came",
            "privacy": "how many noisy contributions have left of the privacy budget, and when the last did",
            "alarms": "alarms that stand now (active), and changes that are not in alarms.json yet (untold)",
        },
    ),
    "outbox.jsonl": About(
        "Messages that wait for the cloud, one JSON object a line, oldest first; of readings only how many there are"
        " (samples), as samples.csv has them.",
        {"number": "of the message", "message": "type names what it is; bare numbers as in the files above"},
    ),
    "settings.json": About(
        "The hub's settings without passkeys, and the text of patient.toml (patient_toml; null: there is none)."
    ),
    "patient.toml": About(
        "The patient file as it is: weight, time zone, therapy. `hometwin replay`, `whatif`, `effect` and `advise` take it"
        " as --patient, with events.csv.",
    ),
}
UNKNOWN: Final = About(
    "Items of a kind that this version of the program does not know, as they are stored.", _ITEM
)
QUALITY: Final = {
    "0": "good",
    "1": "the sensor itself doubts it (warm-up, calibration due, weak signal)",
    "2": "came late, through the sensor's own history",
    "4": "the sensor's clock was wrong or not set when it was taken",
    "8": "typed in by a person",
    "16": "an outlier, as the twin judged",
    "32": "the hub had lost it to damage, and the cloud gave it back",
}


def about(name: str) -> About:
    """Of a file of that name."""
    return FILES.get(name, UNKNOWN)


def readme(
    hub_id: str,
    made_at: str,
    timezone: str,
    files: Iterable[str],
    missing: Sequence[str],
    left_out: Sequence[str],
) -> str:
    """The text of README.txt. ``missing``, ``left_out``: in sentences."""
    parts = [
        f"What the hub {hub_id} holds of one person, written by `hometwin export` {VERSION} on {made_at}.",
        "It is in clear: whoever has these files can read them. Files are UTF-8. CSV has commas and one header line; JSON"
        " and .jsonl (one object a line) are as usual.",
        "",
        "Times",
        "",
        "All times are UTC, in ISO 8601 (2026-01-05T08:00:00+00:00). Fields whose names end in _us are microseconds since"
        " 1970-01-01 UTC; beside them stands the same in ISO 8601 under the name without _us. Numbers too small to be of this"
        f" century are spans, or were told by a clock that nobody had set. The house lives in the time zone {timezone}; local"
        " hours (meal_hour, local_hour) are of that zone or of the patient file's. The hub's machine may have had a wrong clock"
        " for a while: audit.jsonl marks starts (hub.started) and jumps (clock.jumped).",
        "",
        "Numbers that are none",
        "",
        "In JSON null stands where there is no number (never measured, not known, infinite). In CSV such a field is empty, or"
        " nan or inf where a device said so.",
        "",
        "What is missing here",
        "",
        *(f"- {line}" for line in missing or ("Nothing that is known of.",)),
        "",
        "What is left out, and why",
        "",
        *(f"- {line}" for line in left_out),
        "",
        "Kinds",
        "",
        *(f"  {name:<16} {kind.unit}{', an act' if kind.is_input else ''}" for name, kind in KINDS.items()),
        "",
        "Quality",
        "",
        *(f"  {bit:>2}  {text}" for bit, text in QUALITY.items()),
        "",
        "Bits add up: 10 is 2 and 8.",
        "",
        "Files",
    ]
    for name in sorted({*files, "README.txt", "manifest.json"}):
        text, fields = about(name)
        parts += ["", name, "", f"  {text}"]
        parts += [f"  - {field}: {meaning}" for field, meaning in fields.items()]
    return "".join(_wrapped(line) for line in parts)


def _wrapped(line: str) -> str:
    indent = len(line) - len(line.lstrip())
    hang = " " * (indent + 2 * line.lstrip().startswith("- "))
    wrapped = textwrap.wrap(
        line,
        WIDTH,
        subsequent_indent=hang,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapped) + "\n"
