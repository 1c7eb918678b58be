// What the page shows of the patient's state. Everything comes in as text nodes: no markup is ever read from data.

export const made = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    key in element ? (element[key] = value) : element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
};

const paragraph = (textContent, className = "") => made("p", { textContent, className });

const empty = (words, key) => [paragraph(words.t(key), "hint")];

/** Messages, newest first; `isWaiting(message)` says that its confirmation is still to be sent. */
export function messages(words, state) {
  if (!state.messages.length) return empty(words, "messages.none");
  return state.messages.toReversed().map((message) => {
    const sender = message.is_machine ? words.t("messages.machine") : message.sender;
    const item = made(
      "article",
      { className: message.seen_ms ? "card" : "card new" },
      made("p", { className: "meta" }, made("strong", { textContent: sender }), ` · ${words.time(message.t_ms)}`),
      made("p", { className: "text", textContent: message.text }),
    );
    item.dataset.message = message.id;
    if (message.seen_ms) item.dataset.seen = "";
    else item.prepend(paragraph(words.t("messages.new"), "badge"));
    return item;
  });
}

/** Doses by time; `take(dose)` is the patient's confirmation, `isSent(dose)` that it waits to be sent. */
export function doses(words, state, { take, isSent }) {
  if (!state.doses.length) return empty(words, "doses.none");
  return state.doses.map((dose) => {
    const card = made(
      "article",
      { className: `card dose ${dose.state}` },
      made("h4", { textContent: `${dose.drug}, ${dose.dose} ${dose.unit}` }),
      paragraph(words.t("doses.due", { time: words.time(dose.due_ms) }), "meta"),
      paragraph(words.t(`dose.${dose.state}`), "state"),
    );
    if (dose.is_confirmed) card.append(paragraph(words.t("doses.confirmed"), "good"));
    else if (isSent(dose)) card.append(paragraph(words.t("doses.waiting"), "hint"));
    else if (dose.given_ms !== null) {
      const button = made("button", { textContent: words.t("doses.take") });
      button.setAttribute("aria-label", `${words.t("doses.take")}: ${dose.drug}`);
      button.addEventListener("click", () => take(dose), { once: true });
      card.append(button);
    }
    return card;
  });
}

/** What was handed over: first what still waits on this device. */
export function intakes(words, state, waiting) {
  const known = new Set(state.intakes.map(({ id }) => id));
  const cards = waiting
    .filter(({ id }) => !known.has(id))
    .map((action) =>
      made("article", { className: "card unsent" }, paragraph(words.t("intake.unsent"), "badge"), paragraph(action.text, "text")),
    );
  for (const item of state.intakes.toReversed()) {
    const isTaken = item.taken_ms !== null;
    const said = isTaken ? words.t("intake.taken", { who: item.taken_by, time: words.time(item.taken_ms) }) : words.t(state.calls_staff ? "intake.told" : "intake.recorded");
    cards.push(
      made(
        "article",
        { className: `card ${item.urgency}` },
        paragraph(words.time(item.received_ms), "meta"),
        paragraph(item.text, "text"),
        paragraph(said, isTaken ? "good" : "state"),
      ),
    );
  }
  return cards.length ? cards : empty(words, "intake.none");
}

/** What the text calls for: never a diagnosis. `status` is filled in by the page as the report goes its way. */
export function advice(words, { flags, triage, urgency }, number, handOver) {
  const card = made("article", { className: `card advice ${urgency}` });
  card.append(
    made("h3", { textContent: words.t(`advice.${urgency}.title`), tabIndex: -1 }),
    paragraph(words.t(`advice.${urgency}.text`, { number })),
  );
  if (flags.length) {
    const names = flags.map((flag) => words.t(`flag.${flag}`)).join(", ");
    card.append(paragraph(words.t("advice.flags", { names })));
  }
  const status = made("p", { className: "status", role: "status" });
  card.append(status);
  if (handOver) {
    const button = made("button", { textContent: words.t("advice.hand-over") });
    button.addEventListener("click", () => (button.remove(), handOver()), { once: true });
    card.append(button);
  }
  const details = made("details", {}, made("summary", { textContent: words.t("advice.why") }));
  details.append(paragraph(words.t(`where.${triage.where}`)));
  if (triage.choice !== null) {
    const name = words.t(`condition.${triage.choice}`).replace(/^condition\./, "");
    details.append(paragraph(words.t("advice.like", { name, percent: words.percent(triage.confidence) })));
  } else if (triage.where !== "nowhere") details.append(paragraph(words.t("advice.unsure")));
  details.append(paragraph(words.t("advice.no-diagnosis")));
  card.append(details);
  return { card, status };
}

const clauseList = (words, clauses) => {
  const list = made("ul");
  // The rules are written in English whatever the page speaks; a screen reader is told so.
  for (const { summary, source } of clauses) list.append(made("li", { lang: "en" }, summary, made("small", { textContent: ` ${source}` })));
  return made("details", {}, made("summary", { textContent: words.t("decided.rules") }), list);
};

const signal = (words, code) => (words.has(`signal.${code}`) ? words.t(`signal.${code}`) : code);

function decision(words, item) {
  const card = made("article", { className: "card decision" }, paragraph(words.time(item.t_ms), "meta"));
  if (item.score) {
    const { total, band, missing } = item.score;
    card.append(paragraph(words.t("decided.score", { total, band: words.t(`band.${band}`) })));
    if (missing.length) card.append(paragraph(words.t("decided.missing", { names: missing.map((name) => signal(words, name)).join(", ") }), "hint"));
  }
  if (item.risk) card.append(paragraph(words.t(`risk.${item.risk.band}`)));
  if (item.model_failed) card.append(paragraph(words.t("risk.failed")));
  if (item.evidence.length) {
    const list = made("ul");
    for (const { code, text, raises } of item.evidence) {
      const name = signal(words, code);
      const shown = words.language === "en" || name === code ? text : `${name} (${text})`;
      list.append(made("li", { textContent: `${shown}: ${words.t(raises ? "evidence.raises" : "evidence.lowers")}` }));
    }
    card.append(paragraph(words.t("decided.evidence")), list);
  }
  for (const call of item.calls) card.append(paragraph(words.t(`call.${call.priority}`, { source: words.t(`source.${call.source}`) }), "called"));
  if (!item.calls.length) card.append(paragraph(words.t("decided.nobody"), "hint"));
  if (item.waits_for_person.length) card.append(paragraph(words.t("decided.waits")));
  if (item.clauses.length) card.append(clauseList(words, item.clauses));
  return card;
}

/** Decisions, newest first; `review(id)` asks a person to look, `isAsked(id)` that somebody was asked. */
export function decisions(words, told, { review, isAsked }) {
  if (!told.decisions.length) return empty(words, "decided.none");
  return told.decisions.map((item) => {
    if (item.kind === "acknowledged") {
      return made("article", { className: "card" }, paragraph(words.time(item.t_ms), "meta"), paragraph(words.t("decided.seen", { who: item.who }), "good"));
    }
    const card = decision(words, item);
    if (isAsked(item.id)) card.append(paragraph(words.t("review.asked"), "good"));
    else {
      const button = made("button", { className: "second", textContent: words.t("review.one") });
      button.addEventListener("click", () => review(item.id), { once: true });
      card.append(button);
    }
    return card;
  });
}

export function limits(words, told) {
  return told.limits.map(({ action, effect, clauses }) =>
    made("li", {}, made("strong", { textContent: `${words.t(`action.${action}`)} ` }), words.t(`effect.${effect}`), clauses.length ? clauseList(words, clauses) : null),
  );
}

/** A set of three answers for each purpose; `say(purpose, state)`. */
export function consents(words, state, waiting, say) {
  return Object.entries(state.consent).map(([purpose, { state: said }]) => {
    const unsent = waiting.findLast((action) => action.kind === "consent" && action.purpose === purpose);
    const set = made("fieldset", {}, made("legend", { textContent: words.t(`consent.${purpose}`) }));
    for (const value of ["given", "withheld", "unknown"]) {
      const input = made("input", { type: "radio", name: purpose, value, checked: (unsent?.state ?? said) === value });
      input.addEventListener("change", () => say(purpose, value));
      set.append(made("label", {}, input, ` ${words.t(`consent.${value}`)}`));
    }
    set.append(made("p", { className: "hint", role: "status", textContent: words.t(unsent ? "consent.waiting" : `consent.now.${said}`) }));
    return set;
  });
}
