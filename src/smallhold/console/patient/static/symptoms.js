// The floor for text, by the same file and the same rules as the server: which signs call staff whatever a model says.

const isMark = /\p{M}/u;
const isKept = /[\p{L}\p{N}]/u;

/** Lower case, without accents; everything but letters and digits parts words. */
export function wordsOf(text) {
  let plain = "";
  for (const c of text.toLowerCase().normalize("NFKD")) plain += isKept.test(c) ? c : isMark.test(c) ? "" : " ";
  return plain.split(" ").filter(Boolean);
}

const begins = (word, stem) => (stem.endsWith("=") ? word === stem.slice(0, -1) : word.startsWith(stem));

const fits = (places, low, high, used) =>
  places.length === 0 ||
  places[0].some((i) => i >= low && i < high && !used.includes(i) && fits(places.slice(1), low, high, [...used, i]));

function isMet(phrase, words, window) {
  const places = phrase.map((stems) => words.flatMap((word, i) => (stems.some((stem) => begins(word, stem)) ? [i] : [])));
  if (places.some((found) => found.length === 0)) return false;
  return places[0].some((first) => {
    for (let low = first - window + 1; low <= first; low++) {
      if (fits(places.slice(1), low, low + window, [first])) return true;
    }
    return false;
  });
}

/** Names of the flags that a text meets; `rules` is symptoms.json. */
export function redFlags(text, rules) {
  const words = wordsOf(text);
  return Object.entries(rules.flags)
    .filter(([, { phrases }]) =>
      Object.values(phrases)
        .flat()
        .some((phrase) => isMet(phrase.split(" ").map((stem) => stem.split("|")), words, rules.window)),
    )
    .map(([name]) => name);
}

/** How soon a person should look: emergency, staff, soon or routine. */
export function urgencyOf(flags, { choice, confidence }, rules) {
  if (flags.length) return "emergency";
  if (choice === null || confidence < rules.least_confidence) return "staff";
  return rules.urgency[choice] ?? "soon";
}
