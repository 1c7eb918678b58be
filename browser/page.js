// The page: asks the worker, shows what it answers. Everything that is shown is text, never markup.

const state = document.querySelector("#state");

// First of all, so that a model that can no longer be used is replaced too. Whether it can be kept is no condition.
const keep = async () => {
  if (!("serviceWorker" in navigator)) return false;
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
    return true;
  } catch {
    return false; // a private window, or a browser that was told to keep nothing
  }
};
const kept = keep();

const waiting = new Map();
let asked = 0;

const worker = new Worker(`worker.js${location.search}`, { type: "module" });
const started = new Promise((resolve, reject) => {
  worker.onerror = (event) => reject(new Error(event.message || "the worker cannot start"));
  worker.onmessage = ({ data }) => {
    if (data.ready) return resolve(data.ready);
    if (data.trunk && data.number === undefined) return showFacts({ "Texts read by": data.trunk });
    if (data.number === undefined) return reject(new Error(data.error));
    const { resolve: done, reject: failed } = waiting.get(data.number);
    waiting.delete(data.number);
    data.error === undefined ? done(data) : failed(new Error(data.error));
  };
});

/** Ask the engine; resolves to {answer, ms, bytes, trunk}. */
const ask = (request) =>
  new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ number: asked, request });
  });

const made = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const percent = (p) => `${(100 * p).toFixed(1)} %`;
/** Median and slowest of decisions, and how many there could be in a second. */
const speed = (milliseconds) => {
  const sorted = milliseconds.toSorted((a, b) => a - b);
  const median = sorted[sorted.length >> 1];
  const rate = median > 0 ? `, ${Math.round(1000 / median).toLocaleString("en")} decisions a second` : "";
  return `${median.toFixed(1)} ms (slowest ${sorted.at(-1).toFixed(1)} ms)${rate}`;
};
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** Facts in the head, a new one behind the others, a known one anew. */
function showFacts(facts) {
  const list = document.querySelector("#facts");
  for (const [name, value] of Object.entries(facts)) {
    const known = [...list.querySelectorAll("dt")].find((term) => term.textContent === name);
    if (known) known.nextElementSibling.textContent = value;
    else list.append(made("dt", { textContent: name }), made("dd", { textContent: value }));
  }
  list.hidden = false;
}

function shownAnswer({ answer, ms, bytes, trunk }) {
  const parts = [];
  for (const [field, { choice, probabilities, prediction_set: set, is_alert: isAlert }] of Object.entries(answer.answers)) {
    const verdict = choice ?? `abstains: ${set.length < 6 ? set.join(" or ") : `${set.length} answers`} cannot be excluded`;
    const words = `${field.replaceAll("_", " ")}: ${verdict}${isAlert ? " (alert)" : ""}`;
    parts.push(made("p", { className: isAlert ? "verdict alert" : "verdict", textContent: words }));
    const ranked = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
    for (const [name, p] of ranked.slice(0, 4)) {
      const meter = made("meter", { min: 0, max: 1, value: p, ariaLabel: name });
      parts.push(made("div", { className: "bar" }, made("span", { textContent: name }), meter, made("span", { textContent: percent(p) })));
    }
  }
  parts.push(made("p", { className: "cost", textContent: `${ms.toFixed(1)} ms on the ${trunk}, ${megabytes(bytes)} of memory` }));
  return parts;
}

/** What the answer would lose without each word or parameter, as a list; it takes one more decision for each. */
function shownEvidence({ answer }, about) {
  const strong = answer.evidence.filter(({ effect }) => Math.abs(effect) >= 0.02).slice(0, 5);
  if (!strong.length) return [];
  const items = strong.map((item) => {
    const sign = item.effect > 0 ? "+" : "";
    return made("li", { textContent: `${item.text ?? item.code}: ${sign}${item.effect.toFixed(2)} log-odds` });
  });
  return [made("p", { className: "note", textContent: about }), made("ul", { className: "evidence" }, ...items)];
}

function section(template, task) {
  const part = document.querySelector(template).content.firstElementChild.cloneNode(true);
  part.dataset.task = task.name;
  part.querySelector("h2").textContent = task.name;
  part.querySelector(".question").textContent = task.question;
  return part;
}

function textSection(task) {
  const part = section("#text-task", task);
  const [form, text, button, room] = ["form", "textarea", "button", ".answer"].map((name) => part.querySelector(name));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const request = { task: task.name, text: text.value };
      room.replaceChildren(...shownAnswer(await ask(request)));
      room.append(...shownEvidence(await ask({ ...request, explain: true }), "What each word adds to the likeliest answer:"));
    } catch (error) {
      room.replaceChildren(made("p", { className: "verdict alert", textContent: error.message }));
    }
    button.disabled = false;
  });
  return part;
}

function signalSection(task, patient) {
  const part = section("#signal-task", task);
  const [button, hour, chart, room] = [".play", ".hour", ".risk", ".answer"].map((name) => part.querySelector(name));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  chart.append(line);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const who = { task: task.name, patient: patient.name };
    const points = [];
    const spent = [];
    try {
      await ask({ ...who, static: patient.static });
      for (const [i, observe] of patient.hours.entries()) {
        const said = await ask({ ...who, observe, close: true, decide: true });
        const p = Object.values(said.answer.answers)[0].probabilities[patient.positive];
        points.push(`${40 + (440 * i) / (task.bins - 1)},${10 + 100 * (1 - p)}`);
        line.setAttribute("points", points.join(" "));
        spent.push(said.ms);
        hour.textContent = `hour ${i + 1} of ${patient.hours.length}, ${speed(spent)}`;
        if (i + 1 === patient.hours.length || i % 6 === 0) room.replaceChildren(...shownAnswer(said));
        await new Promise((resolve) => setTimeout(resolve, 40));
      }
      const evidence = await ask({ ...who, explain: true });
      room.append(...shownEvidence(evidence, `What each parameter adds to ${patient.positive}:`));
      await ask({ ...who, static: null });
    } catch (error) {
      room.replaceChildren(made("p", { className: "verdict alert", textContent: error.message }));
    }
    button.disabled = false;
  });
  return part;
}

try {
  const { about, ms, kernels, bytes } = await started;
  const facts = {
    Bundle: `${about.name} ${about.version}, ${megabytes(bytes)}, signature and files verified in ${ms.toFixed(0)} ms`,
    Digest: about.digest,
    Engine: `WebAssembly on the processor (${kernels})`,
  };
  if (about.is_simulated) facts.Data = "taught on simulated data";
  showFacts(facts);
  const response = await fetch("patient.json");
  const patients = response.ok ? await response.json() : {};
  const main = document.querySelector("#tasks");
  for (const task of about.tasks) {
    if (!task.parameters) main.append(textSection(task));
    else if (patients[task.name]) main.append(signalSection(task, patients[task.name]));
  }
  state.textContent = "Ready. Nothing leaves this page.";
  if (await kept) state.textContent = "Ready, also without a network. Nothing leaves this page.";
} catch (error) {
  state.textContent = `Cannot decide here: ${error.message}`;
  state.className = "warning";
}
