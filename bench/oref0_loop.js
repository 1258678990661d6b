// One decision of OpenAPS oref0 per line of JSON: what its scripts oref0-calculate-iob, oref0-meal,
// oref0-detect-sensitivity and oref0-determine-basal do, in one process that stays. argv[2]: the folder of oref0.
'use strict';

const path = require('path');
const part = (name) => require(path.join(process.argv[2], 'lib', name));
const lastGlucose = part('glucose-get-last');
const determine = part('determine-basal/determine-basal');
const sensitivity = part('determine-basal/autosens');
const insulinOnBoard = part('iob');
const meals = part('meal');
const setTemp = part('basal-set-temp');

// oref0 tells a lot on stderr, some of it at every reading.
console.error = () => {};
process.stderr.write = () => true;

// It asks the clock of the machine in places; here the clock is the simulation's.
const RealDate = Date;
let nowMs = 0;
global.Date = class extends RealDate {
  constructor(...given) {
    if (given.length) super(...given);
    else super(nowMs);
  }
  static now() {
    return nowMs;
  }
};

const copy = (value) => JSON.parse(JSON.stringify(value));
let ratio = { ratio: 1 };

function decide(asked) {
  nowMs = RealDate.parse(asked.clock);
  const { profile, history, carbs, glucose, basalprofile } = asked;
  if (asked.detect_sensitivity) {
    ratio = sensitivity({
      glucose_data: copy(glucose),
      iob_inputs: { history: copy(history), profile: copy(profile), clock: asked.clock },
      carbs: copy(carbs),
      basalprofile,
      temptargets: [],
    });
  }
  const iob = insulinOnBoard({ history: copy(history), profile: copy(profile), clock: asked.clock, autosens: ratio });
  const meal = meals({
    history: copy(history), profile: copy(profile), clock: asked.clock,
    glucose: copy(glucose), basalprofile, carbs: copy(carbs),
  });
  const now = new Date(nowMs);
  const got = determine(
    lastGlucose(copy(glucose)), asked.current, iob, copy(profile), ratio, meal, setTemp, asked.microbolus, null, now,
  );
  return { rate: got.rate, duration: got.duration, units: got.units, error: got.error };
}

require('readline')
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    let answer;
    try {
      answer = decide(JSON.parse(line));
    } catch (err) {
      answer = { error: String(err && err.stack) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  });
