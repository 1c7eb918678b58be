// Auditory alarm signals after IEC 60601-1-8: bursts of pulses, 10 for HIGH, 3 for MEDIUM, 2 for LOW, repeated while an
// audible alert of that priority stands. A browser makes no sound before a person has touched the page, and a person may
// pause it here for two minutes: both are shown in the page's head as long as they last.

// Onsets in seconds from the burst's begin; the second half of a HIGH repeats the first.
const HALF = [0, 0.25, 0.5, 1.0, 1.25];
export const BURSTS = {
  high: { onsets: [...HALF, ...HALF.map((at) => at + 1.9)], pulse: 0.15, pause: 5 },
  medium: { onsets: [0, 0.4, 0.8], pulse: 0.2, pause: 12 },
  low: { onsets: [0, 0.4], pulse: 0.2, pause: 25 },
};
export const PAUSE_SECONDS = 120;
const FUNDAMENTAL_HZ = 523;

let context = null;
let wave = null;
let mutedUntil = 0;
let nextAt = 0;
let playing = null;
export let played = 0;

export function state() {
  if (context === null || context.state !== "running") return "locked";
  return Date.now() < mutedUntil ? "paused" : "on";
}

export function pausedSeconds() { return Math.max(0, Math.ceil((mutedUntil - Date.now()) / 1000)); }

// Must be called from a person's gesture.
export async function unlock() {
  if (context === null) {
    context = new AudioContext();
    // Four harmonics and more within 15 dB of each other, so that the sound can be located.
    const real = new Float32Array([0, 1, 0.8, 0.7, 0.6, 0.5, 0.4]);
    wave = context.createPeriodicWave(real, new Float32Array(real.length));
  }
  await context.resume();
}

export function pause() { mutedUntil = Date.now() + PAUSE_SECONDS * 1000; if (playing) { playing.disconnect(); playing = null; } nextAt = 0; }
export function resume() { mutedUntil = 0; nextAt = 0; }

// Called a few times a second with the most urgent audible priority, null for none.
export function sound(priority) {
  if (priority === null || state() !== "on") return;
  const now = context.currentTime;
  const burst = BURSTS[priority];
  if (playing && playing.priority === priority && now < nextAt) return;
  if (playing && now < playing.endsAt && BURSTS[playing.priority].pause <= burst.pause) return; // let a louder burst end
  if (playing) playing.disconnect();
  const gain = context.createGain();
  gain.gain.value = 0.25;
  gain.connect(context.destination);
  const edge = burst.pulse * 0.15;
  for (const onset of burst.onsets) {
    const at = now + 0.03 + onset;
    const tone = context.createOscillator();
    const envelope = context.createGain();
    tone.setPeriodicWave(wave);
    tone.frequency.value = FUNDAMENTAL_HZ;
    envelope.gain.setValueAtTime(0, at);
    envelope.gain.linearRampToValueAtTime(1, at + edge);
    envelope.gain.setValueAtTime(1, at + burst.pulse - edge);
    envelope.gain.linearRampToValueAtTime(0, at + burst.pulse);
    tone.connect(envelope).connect(gain);
    tone.start(at);
    tone.stop(at + burst.pulse + 0.01);
  }
  const length = burst.onsets.at(-1) + burst.pulse;
  playing = { priority, endsAt: now + length, disconnect: () => gain.disconnect() };
  nextAt = now + length + burst.pause;
  played += 1;
}
