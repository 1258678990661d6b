"""The filter of one person moving along the record: plain numbers in, plain numbers out.

A ``Track`` at time T depends only on the nominal values and on the events up to T in record order, so two
tracks that saw the same events are equal to the last bit, whatever arrived late.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from core import correction as corr
from core import correction_pool as corr_pool
from core import gate
from core.correction_pool import Start
from core.filters import srukf
from core.filters.smoother import Tape, cross_covariance, sigma_points
from core.gate import (
    CLOSE_MIN,
    GATE_NIS,
    N_SCALAR,
    PRESS_VAR,
    SC_BASAL_AT,
    SC_FIRST_READING,
    SC_HAS_BASAL,
    SC_HR_AT,
    SC_INTERVAL,
    SC_LAST_READING,
    SC_LAST_VALUE,
    SC_LN_RESTLESS,
    SC_LN_SENSOR,
    SC_LONG_AT,
    SC_NIS,
    SC_NIS_MEAN,
    SC_OUTLIER_RUN,
    SC_PRESS_AT,
    SC_READINGS,
    SC_WHITE_VAR,
    SC_Z1,
    SC_Z2,
)
from core.guidance import Guidance, unpacked
from core.models import hovorka as model
from core.nominal import Nominal, Tuning
from core.patient import LocalTime, Patient
from core.record import Entry
from core.units import US_PER_MIN, mmoll_from_mgdl

MAX_PREDICT_MIN: Final = 5.0  # sigma points are redrawn at least this often
MAX_RK4_MIN: Final = 2.5
JUMP_MIN: Final = 2 * 24 * 60.0  # after two days without any event nothing but the prior is left
DIVERGED_NIS: Final = 6.0  # running mean; 1 is right
GATE_RELEASE: Final = 3  # so many outliers in a row are a new level, not outliers
MISSED_PEN_MIN: Final = 30 * 60.0  # a daily dose this late was probably given and not logged
BASAL_HOLD_MIN: Final = 24 * 60.0  # a pump that says nothing for a day has lost its link, not its rate
HEART_RATE_HOLD_MIN: Final = 20.0
FLOORS: Final = np.zeros(model.N_STATE)

_N = model.N
_AT_FACTOR = _N
_AT_DRIVERS = _AT_FACTOR + _N * _N
_AT_HELD = _AT_DRIVERS + model.N_DRIVER
_AT_SCALARS = _AT_HELD + 4
STATE_SIZE: Final = _AT_SCALARS + N_SCALAR

_CGM_ROW = model.cgm_row()
_WORK = np.zeros(model.WORK_SIZE)
_NODES = np.zeros((9, model.N_INPUT))
_GAIN = np.zeros(2 * _N)
_COAST_WORK = np.zeros(model.COAST_SIZE)
_SIGNALS = np.zeros(corr.N_SIGNAL)
_X, _PSI, _RLS_GAIN = np.zeros(corr.K), np.zeros(corr.N_PSI), np.zeros(corr.K)
_OUT = np.zeros((4, corr.H))
_PATH = np.zeros(72)
_BASE_INDEX: Final = np.array([round(h / 5.0) - 1 for h in corr.HORIZONS_MIN])


class Track:
    """Filter state at ``time_us``. ``state`` is one flat array, so a checkpoint is one copy."""

    def __init__(
        self,
        patient: Patient,
        local: LocalTime,
        nominal: Nominal,
        tuning: Tuning,
        time_us: int,
        population: corr.Population,
    ) -> None:
        self.patient, self.local, self.tuning = patient, local, tuning
        self.time_us = time_us  # where the state is
        self.seen_us = time_us - 1  # all events up to here are in it
        self.state = np.zeros(STATE_SIZE)
        self.pull: tuple[
            float, ...
        ] = ()  # where parameters return to, when learning says so; else the nominal
        self.bind(nominal)
        self.scalars[SC_NIS] = math.nan
        self.scalars[SC_LAST_READING] = math.nan
        self.scalars[SC_FIRST_READING] = math.nan
        self.scalars[SC_INTERVAL] = 5.0
        self.scalars[SC_NIS_MEAN] = 1.0
        self.scalars[SC_WHITE_VAR] = tuning.white_mgdl**2
        self.scalars[SC_Z1] = self.scalars[SC_Z2] = self.scalars[SC_PRESS_AT] = math.nan
        self.scalars[SC_HR_AT] = -math.inf
        self.reset(nominal.fasting_mmoll)
        self.drivers[model.L1] = 0.0
        self.held[model.BASAL] = self._background_mupm()
        self.population = population
        self.learn = corr.fresh(population)
        self.start: Start | None = None  # where the correction began, when not at the shipped weights
        self.outliers: list[tuple[str, str, int]] = []
        self.evidence = 0.0  # log-likelihood of CGM readings taken in by this object
        self.teach = True  # False: only the filter moves, the correction learns nothing (trial runs)
        self.tape: Tape | None = None  # set while a smoother listens

    def bind(self, nominal: Nominal) -> None:
        """Use these nominal values from here on; the state stays."""
        self.nominal = nominal
        self.blood_row = model.blood_row(nominal.consts)
        self.dynamics = nominal.dynamics.copy()
        if self.pull:
            self.dynamics[: model.N_THETA, 0] = self.pull
        state = self.state
        self.mean = state[:_N]
        self.factor = state[_AT_FACTOR:_AT_DRIVERS].reshape((_N, _N))
        self.drivers = state[_AT_DRIVERS:_AT_HELD]
        self.held = state[_AT_HELD:_AT_SCALARS]
        self.scalars = state[_AT_SCALARS:]
        self._scale_noise()

    def inherit(self, other: Track) -> None:
        """Take over what was learned of noise: a new start need not learn it again."""
        for at in (SC_LN_RESTLESS, SC_LN_SENSOR, SC_WHITE_VAR):
            self.scalars[at] = other.scalars[at]
        self._scale_noise()

    def begin(self, start: Start) -> None:
        """Let the correction stand where it would had it begun at ``start``."""
        corr_pool.begin(self.learn, self.population, self.start, start)
        self.start = start

    def copy(self) -> Track:
        """An independent track at the same point."""
        other = self.fork()
        other.learn = self.learn.copy()
        return other

    def fork(self) -> Track:
        """As ``copy``, to look ahead with: it shares what was learned and must not take in readings."""
        other = object.__new__(Track)
        other.patient, other.local, other.tuning = self.patient, self.local, self.tuning
        other.time_us, other.seen_us = self.time_us, self.seen_us
        other.state = self.state.copy()
        other.pull, other.evidence, other.teach = self.pull, 0.0, self.teach
        other.bind(self.nominal)
        other.population, other.learn, other.start = self.population, self.learn, self.start
        other.outliers = list(self.outliers[-64:])
        other.tape = None
        return other

    def _background_mupm(self) -> float:
        """Insulin that flows when the record says nothing: the profile, or the assumed background."""
        rate_uph = self.patient.profile_uph(self.local.hour(self.time_us) * 60.0)
        if rate_uph is not None:
            return rate_uph * 1000.0 / 60.0
        return self.nominal.basal_mupm

    def reset(self, glucose_mmoll: float) -> None:
        """State at rest with prior width; θ at its mean. Drivers, held inputs and scalars stay."""
        nominal = self.nominal
        theta = self.dynamics[:, 0]
        self.mean[: model.N_LINEAR] = theta
        self.mean[model.N_LINEAR :] = model.steady_state(
            nominal.consts, nominal.basal_mupm, theta[model.LN_S], theta[model.LN_TI], glucose_mmoll
        )
        self.factor[:] = 0.0
        x = self.mean[model.N_LINEAR :]
        sd = np.zeros(_N)
        sd[: model.N_LINEAR] = nominal.dynamics[:, 2]
        at = model.N_LINEAR
        sd[at : at + 6] = 0.4 * x[:6]
        sd[at + model.Q1] = mmoll_from_mgdl(60.0) * nominal.consts[model.VG]
        sd[at + model.Q2] = 0.6 * x[model.Q2] + 0.05
        sd[at + model.D1] = sd[at + model.D2] = 0.7
        sd[at + model.C] = 0.0
        np.fill_diagonal(self.factor, sd)
        # Interstitial follows plasma: same deviation, plus a little of its own.
        self.factor[at + model.Q1, at + model.C] = mmoll_from_mgdl(60.0)
        self.factor[at + model.C, at + model.C] = mmoll_from_mgdl(10.0)

    # ---- moving -------------------------------------------------------------------------------------

    def advance(self, time_us: int) -> None:
        """Predict to ``time_us`` (not before now)."""
        left_min = (time_us - self.time_us) / US_PER_MIN
        if left_min > JUMP_MIN:
            self._jump(left_min)
            self.time_us = time_us
            return
        held = self.held
        while self.time_us < time_us:
            dt_us = min(time_us - self.time_us, int(MAX_PREDICT_MIN * US_PER_MIN))
            dt_min = dt_us / US_PER_MIN
            n_steps = 1 if dt_min <= MAX_RK4_MIN else 2
            self.hold_inputs()
            consts = self.nominal.consts
            model.drive(self.drivers, held, consts, dt_min, n_steps, _NODES)
            done = None
            if self.tape is not None:
                done = self.tape.note(self.time_us, self.mean, self.factor, self._cross(dt_min, n_steps))
            model.predict(self.mean, self.factor, _NODES, consts, self.dynamics, dt_min, n_steps, _WORK)
            if done is not None:
                done(self.mean, self.factor)
            self.time_us += dt_us

    def _cross(self, dt_min: float, n_steps: int) -> model.Array:
        """Covariance between the state now and after ``dt_min`` under the inputs in _NODES."""
        before = sigma_points(self.mean, self.factor)
        after = before.copy()
        model.sweep(after, _NODES, self.nominal.consts, dt_min / n_steps, n_steps, _WORK)
        phi, noise = np.zeros((model.N_LINEAR, model.N_LINEAR)), np.zeros((model.N_LINEAR, model.N_LINEAR))
        model.transition(dt_min, self.dynamics, phi, noise)
        after[: model.N_LINEAR] = phi @ after[: model.N_LINEAR]
        return cross_covariance(before, after)

    def hold_inputs(self) -> None:
        """Set what drives the model until the next stop."""
        held = self.held
        held[model.LOCAL_H] = self.local.hour(self.time_us)
        held[model.HR_REST] = self.nominal.rest_bpm
        if self.time_us / US_PER_MIN - self.scalars[SC_HR_AT] > HEART_RATE_HOLD_MIN:
            held[model.HR_EXCESS] = 0.0
        scalars = self.scalars
        now_min = self.time_us / US_PER_MIN
        if scalars[SC_LONG_AT] > 0.0 and now_min - scalars[SC_LONG_AT] > MISSED_PEN_MIN:
            # Pen doses are forgotten in logbooks far more often than in life.
            self.drivers[model.L1] += self.nominal.basal_mupm * 1440.0
            scalars[SC_LONG_AT] = max(scalars[SC_LONG_AT] + 1440.0, now_min - 1440.0)
        if scalars[SC_HAS_BASAL] == 0.0 or (
            scalars[SC_BASAL_AT] > 0.0 and now_min - scalars[SC_BASAL_AT] > BASAL_HOLD_MIN
        ):
            held[model.BASAL] = self._background_mupm()

    def _jump(self, left_min: float) -> None:
        """After a gap so long that the past has faded: prior state, parameters relaxed in closed form."""
        done = None
        if self.tape is not None:  # nothing of what comes later is told to what was before
            done = self.tape.note(self.time_us, self.mean, self.factor, np.zeros((_N, _N)))
        theta = self.mean[: model.N_THETA].copy()
        cov = (self.factor.T @ self.factor)[: model.N_THETA, : model.N_THETA]
        self.reset(self.nominal.fasting_mmoll)
        keep = np.exp(-left_min / self.nominal.dynamics[: model.N_THETA, 1])
        mu = self.dynamics[: model.N_THETA, 0]
        var0 = self.nominal.dynamics[: model.N_THETA, 2] ** 2
        self.mean[: model.N_THETA] = mu + keep * (theta - mu)
        cov = cov * np.outer(keep, keep) + np.diag(var0 * (1.0 - keep**2))
        self.factor[: model.N_THETA, : model.N_THETA] = np.linalg.cholesky(cov + 1e-12 * np.eye(len(keep))).T
        consts = self.nominal.consts
        decay = math.exp(-min(left_min * consts[model.K_LONG], 700.0))
        self.drivers[model.L2] *= decay
        self.drivers[model.L1] *= decay
        self.drivers[model.EX_Y] = self.drivers[model.EX_Z] = 0.0
        if done is not None:
            done(self.mean, self.factor)

    def rest(self) -> None:
        """From here on nobody knows the heart rate: assume rest."""
        self.scalars[SC_HR_AT] = -math.inf

    def coast(self, dt_min: float, out: model.Array) -> None:
        """Move the mean alone by ``out.size`` steps of ``dt_min`` ≤ 5; ``out`` receives CGM readings."""
        self.hold_inputs()
        model.coast(
            self.mean,
            self.drivers,
            self.held,
            self.nominal.consts,
            self.dynamics,
            dt_min,
            out,
            _COAST_WORK,
        )
        self.time_us += round(dt_min * US_PER_MIN) * out.size

    def guided(self, guidance: Guidance) -> None:
        """Take in what learning says of the parameters (core.guidance)."""
        k, x = model.N_THETA, model.N_LINEAR
        before = self.mean.copy()
        done = None
        if self.tape is not None:
            done = self.tape.note(self.time_us, self.mean, self.factor, self.factor.T @ self.factor)
        if guidance.kind == "open":
            self.factor[:, :k] *= math.sqrt(guidance.factor)
        elif guidance.kind == "pull":
            self.pull = guidance.theta
            white = np.linalg.inv(np.linalg.cholesky(unpacked(guidance.cov)))
            for line in white:  # independent parts, one after the other
                row = np.zeros(_N)
                row[:k] = line
                residual = float(line @ guidance.theta) - float(row @ self.mean)
                srukf.update(self.mean, self.factor, row, residual, 1.0, _GAIN)
            np.maximum(self.mean[x:], 0.0, out=self.mean[x:])
        else:
            theta = np.array(guidance.theta)
            if guidance.kind == "shift":
                self.pull = tuple((self.dynamics[:k, 0] + theta).tolist())
                self.mean[:k] += theta
            else:
                self.pull = guidance.theta
                self.mean[:k] = theta
            # Insulin's actions are proportional to the sensitivity and follow it.
            actions = x + np.array([model.X1, model.X2, model.X3])
            self.mean[actions] *= math.exp(min(max(self.mean[model.LN_S] - before[model.LN_S], -3.0), 3.0))
            if guidance.kind == "move":
                cov = self.factor.T @ self.factor
                cov[:k] = cov[:, :k] = 0.0
                slope = np.zeros((_N, k))
                slope[:k] = np.eye(k)
                slope[actions, model.LN_S] = self.mean[actions]
                cov += slope @ unpacked(guidance.cov) @ slope.T
                root = np.sqrt(np.maximum(np.diag(cov), 1e-24))  # an empty stomach has no variance
                scaled = cov / np.outer(root, root) + 1e-10 * np.eye(_N)
                self.factor[:] = np.linalg.cholesky(scaled).T * root
        self.bind(self.nominal)
        if done is not None:
            done(self.mean, self.factor)

    # ---- events -------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Move to the event and take it in."""
        if entry.kind == "heart_rate_bpm":
            self.hear(entry.time_us, entry.value)
            return
        if entry.kind in ("weight_kg", "drug_mg"):
            return
        self.advance(entry.time_us)
        if entry.kind in ("cgm_mgdl", "smbg_mgdl"):
            self._reading(entry)
        else:
            corr.note_act(self.learn, entry.time_us / US_PER_MIN, entry.kind, entry.value)
            self.plan(entry.kind, entry.value)

    def hear(self, time_us: int, rate_bpm: float) -> None:
        """A heart rate. Read at the next prediction: not worth a stop of its own."""
        self.held[model.HR_EXCESS] = max(0.0, rate_bpm - self.nominal.rest_bpm)
        self.scalars[SC_HR_AT] = time_us / US_PER_MIN

    def plan(self, kind: str, value: float) -> None:
        """An input now, known or planned."""
        if kind == "basal_uph":
            self.held[model.BASAL] = value * 1000.0 / 60.0
            self.scalars[SC_HAS_BASAL] = 1.0
            self.scalars[SC_BASAL_AT] = self.time_us / US_PER_MIN
            self.scalars[SC_LONG_AT] = 0.0
        else:
            self._act(kind, value)

    def _act(self, kind: str, value: float) -> None:
        """A dose or a meal, now."""
        at = model.N_LINEAR
        done = None
        if self.tape is not None:
            cross = self.factor.T @ self.factor
            if kind == "carbs_g":
                grams = model.meal_mmol_per_kg(self.nominal.consts, value, float(self.mean[model.LN_AG]))
                cross[:, at + model.D1] += grams * cross[:, model.LN_AG]
            done = self.tape.note(self.time_us, self.mean, self.factor, cross)
        self._act_on_state(kind, value)
        if done is not None:
            done(self.mean, self.factor)

    def _act_on_state(self, kind: str, value: float) -> None:
        at = model.N_LINEAR
        if kind == "bolus_u":
            self.mean[at + model.S1] += 1000.0 * value
        elif kind == "long_acting_u":
            if self.scalars[SC_HAS_BASAL] == 0.0:
                self._switch_to_pen()
            self.drivers[model.L1] += 1000.0 * value
            self.scalars[SC_LONG_AT] = self.time_us / US_PER_MIN
        elif kind == "carbs_g":
            amount = model.meal_mmol_per_kg(self.nominal.consts, value, float(self.mean[model.LN_AG]))
            d1 = at + model.D1
            self.mean[d1] += amount
            self.factor[: d1 + 1, d1] += amount * self.factor[: d1 + 1, model.LN_AG]
            spread = np.zeros(_N)
            spread[d1] = self.tuning.sd_carbs * amount
            srukf.add_noise(self.factor, spread)
            # A new meal has its own absorption: its speed is as uncertain as before any.
            i = model.LN_TG
            var = float(self.factor[: i + 1, i] @ self.factor[: i + 1, i])
            missing = self.nominal.dynamics[i, 2] ** 2 - var
            if missing > 0.0:
                spread = np.zeros(_N)
                spread[i] = math.sqrt(missing)
                srukf.add_noise(self.factor, spread)

    def _switch_to_pen(self) -> None:
        """First pen dose: what flowed as background so far is taken to have come from earlier doses."""
        rate = self.nominal.basal_mupm
        self.drivers[model.L1] = rate / self.nominal.consts[model.K_LONG]
        self.drivers[model.L2] = rate / self.nominal.consts[model.K_SITE]
        self.held[model.BASAL] = 0.0
        self.scalars[SC_HAS_BASAL] = 1.0

    def _reading(self, entry: Entry) -> None:
        scalars = self.scalars
        now_min = entry.time_us / US_PER_MIN
        blood = entry.kind == "smbg_mgdl"
        if math.isnan(scalars[SC_FIRST_READING]):
            scalars[SC_FIRST_READING] = now_min
        row = self.blood_row if blood else _CGM_ROW
        predicted = float(row @ self.mean)
        variance = (0.05 * entry.value + 3.0) ** 2 if blood else float(scalars[SC_WHITE_VAR])
        residual = entry.value - predicted
        expected = srukf.output_variance(self.factor, row) + variance
        nis = residual * residual / expected
        if not blood:
            self.evidence -= 0.5 * (min(nis, GATE_NIS) + math.log(2.0 * math.pi * expected))
        wild = nis > GATE_NIS and gate.wild(scalars, entry.value, now_min)
        press = gate.Press.NONE
        if not blood:
            press = gate.pressed(scalars, self.local.hour(entry.time_us), entry.value, residual, nis, now_min)
        pressed = press is gate.Press.HELD
        if press is gate.Press.REFUTED:
            self._open_up()
        if pressed:
            self.outliers.append((entry.source, entry.kind, entry.seq))
            variance += PRESS_VAR
        elif nis > GATE_NIS and scalars[SC_READINGS] > 0:
            scalars[SC_OUTLIER_RUN] += 1.0
            self.outliers.append((entry.source, entry.kind, entry.seq))
            if scalars[SC_OUTLIER_RUN] < GATE_RELEASE:
                variance += residual * residual / GATE_NIS - expected
            else:
                # The level did change: let the disturbance and the state follow.
                self._open_up()
                scalars[SC_OUTLIER_RUN] = 0.0
        else:
            scalars[SC_OUTLIER_RUN] = 0.0
        srukf.update(self.mean, self.factor, row, residual, variance, _GAIN)
        np.maximum(self.mean[model.N_LINEAR :], 0.0, out=self.mean[model.N_LINEAR :])
        if not math.isfinite(float(self.mean.sum() + self.factor.sum())):
            # Never seen; should it happen, a wide honest start beats NaN for ever.
            self.reset(mmoll_from_mgdl(entry.value))
            nis = scalars[SC_NIS_MEAN] = DIVERGED_NIS
        if not math.isnan(scalars[SC_LAST_READING]) and not blood:
            gap = now_min - scalars[SC_LAST_READING]
            if gap <= CLOSE_MIN:
                # Readings this close differ by the sensor's white noise, or come from two streams of one
                # sensor (scan and history) that do not agree: learn how far to trust a single one.
                excess = min(residual * residual, 900.0) - (expected - variance)
                white = scalars[SC_WHITE_VAR]
                white += 0.03 * (excess - white)
                scalars[SC_WHITE_VAR] = min(max(white, self.tuning.white_mgdl**2), 400.0)
            if 0.5 <= gap <= 30.0:
                scalars[SC_INTERVAL] += 0.1 * (gap - scalars[SC_INTERVAL])
        if self.teach and not blood and not wild and not pressed:
            self._learn(now_min, entry.value)
        if not blood and not pressed and CLOSE_MIN < now_min - scalars[SC_LAST_READING] <= 20.0:
            gate.restless(scalars, nis)
            self._scale_noise()
        if not blood and not pressed:
            gap_min = now_min - scalars[SC_LAST_READING]
            gate.whiten(scalars, residual / math.sqrt(expected), gap_min, self.tuning.white_mgdl**2)
            self._scale_noise()
        scalars[SC_NIS] = nis
        scalars[SC_NIS_MEAN] += 0.1 * (min(nis, GATE_NIS) - scalars[SC_NIS_MEAN])
        scalars[SC_LAST_READING] = now_min
        scalars[SC_LAST_VALUE] = entry.value
        scalars[SC_READINGS] += 1.0

    def _learn(self, now_min: float, glucose_mgdl: float) -> None:
        """Feed the online correction; each quarter of an hour note a forecast to learn from later."""
        learn = self.learn
        corr.note_reading(learn, now_min, glucose_mgdl)
        corr.mature(learn, self.population.cov, self.population.var, _RLS_GAIN)
        last = learn[corr.AT_TIMES + 2]
        if math.isnan(last) or now_min - last >= corr.PUSH_MIN - 0.5:
            runner = self.fork()
            runner.rest()
            runner.coast(5.0, _PATH)
            base = _PATH[_BASE_INDEX]
            band = self._features(base)
            corr.correct(learn, _X, _PSI, self.population.beta, band, _OUT)
            corr.push(learn, _X, base, _OUT, band)

    def _features(self, base: model.Array) -> int:
        model.signals(self.mean, self.nominal.consts, _SIGNALS)
        hour = self.local.hour(self.time_us)
        return int(corr.features(self.learn, _SIGNALS, base, hour, self.population.scaler, _X, _PSI))

    def last_note(self) -> tuple[model.Array, model.Array, model.Array, int]:
        """Features, scale features, base forecasts and range of the note just taken (for fitting)."""
        at = (
            corr.AT_QUEUE
            + ((int(self.learn[corr.AT_COUNT + 3]) + int(self.learn[corr.AT_COUNT + 2]) - 1) % corr.QUEUE)
            * corr.ROW
        )
        note = self.learn[at : at + corr.ROW]
        base = note[2 + corr.K : 2 + corr.K + corr.H]
        return note[2 : 2 + corr.K].copy(), _PSI.copy(), base.copy(), int(note[1])

    def corrected(self) -> bool:
        """Whether the online correction has a CGM reading to start from."""
        return not math.isnan(self.learn[corr.AT_TIMES])

    def correction(self, base: model.Array) -> model.Array:
        """float64[4, H] of core.correction.correct for base forecasts at its horizons."""
        band = self._features(base)
        out = np.zeros((4, corr.H))
        corr.correct(self.learn, _X, _PSI, self.population.beta, band, out)
        return out

    def _scale_noise(self) -> None:
        """Noise of disturbance and sensor: nominal, times what was learned of this person."""
        nominal, scalars = self.nominal.dynamics, self.scalars
        self.dynamics[model.DISTURBANCE, 2] = nominal[model.DISTURBANCE, 2] * math.exp(
            scalars[SC_LN_RESTLESS]
        )
        sensor = nominal[model.SENSOR, 2] * math.exp(scalars[SC_LN_SENSOR])
        self.dynamics[model.SENSOR_SLOW, 2] = self.dynamics[model.SENSOR, 2] = sensor

    def _open_up(self) -> None:
        """Add prior-sized width to glucose, as after a loss of track."""
        at = model.N_LINEAR
        spread = np.zeros(_N)
        sd = mmoll_from_mgdl(40.0)
        spread[at + model.Q1] = sd * self.nominal.consts[model.VG]
        spread[at + model.C] = sd
        done = None
        if self.tape is not None:
            done = self.tape.note(self.time_us, self.mean, self.factor, self.factor.T @ self.factor)
        srukf.add_noise(self.factor, spread)
        if done is not None:
            done(self.mean, self.factor)

    # ---- reading off --------------------------------------------------------------------------------

    def output(self) -> tuple[float, float]:
        """Mean and SD of a CGM reading now, mg/dL."""
        mean = float(_CGM_ROW @ self.mean)
        return mean, math.sqrt(srukf.output_variance(self.factor, _CGM_ROW) + self.scalars[SC_WHITE_VAR])

    @property
    def nis(self) -> float:
        """Normalised innovation squared of the last reading; nan before the first."""
        return float(self.scalars[SC_NIS])

    def age_s(self, time_us: int) -> float:
        """Age of the newest reading used; inf before the first."""
        last = self.scalars[SC_LAST_READING]
        return math.inf if math.isnan(last) else float(time_us / 1e6 - last * 60.0)

    def status(self, time_us: int) -> str:
        """ok | warming_up | stale | diverged."""
        first = self.scalars[SC_FIRST_READING]
        if math.isnan(first):
            return "warming_up"
        if self.age_s(time_us) > 60.0 * max(15.0, 3.0 * self.scalars[SC_INTERVAL]):
            return "stale"
        if time_us / US_PER_MIN - first < 180.0 or self.scalars[SC_READINGS] < 10:
            return "warming_up"
        if self.scalars[SC_NIS_MEAN] >= DIVERGED_NIS:
            return "diverged"
        return "ok"
