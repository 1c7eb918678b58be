// The words of the page in three languages; everything is put in as text, never as markup.

export const LANGUAGES = ["en", "fr", "ru"];

export class Words {
  constructor(all, language) {
    this.all = all;
    this.language = language;
  }

  static async load() {
    const load = async (name) => (await fetch(`i18n-${name}.json`)).json();
    const all = Object.fromEntries(await Promise.all(LANGUAGES.map(async (name) => [name, await load(name)])));
    const wanted = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => LANGUAGES.includes(tag));
    return new Words(all, wanted ?? "en");
  }

  /** The words of a key, with {places} filled in; in English where a key is of a model to come. */
  t(key, places = {}) {
    const words = this.all[this.language][key] ?? this.all.en[key] ?? key;
    return words.replaceAll(/\{(\w+)\}/g, (whole, name) => (name in places ? String(places[name]) : whole));
  }

  has(key) {
    return key in this.all[this.language];
  }

  /** Put the words into every element with data-t. */
  apply() {
    document.documentElement.lang = this.language;
    document.title = this.t("title");
    for (const element of document.querySelectorAll("[data-t]")) element.textContent = this.t(element.dataset.t);
  }

  time(ms) {
    const isToday = new Date(ms).toDateString() === new Date().toDateString();
    const options = isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
    return new Intl.DateTimeFormat(this.language, options).format(ms);
  }

  /** How long ago, in words: to the minute. */
  age(ms) {
    const minutes = Math.max(0, Math.round(ms / 60_000));
    if (minutes < 1) return this.t("just-now");
    const format = new Intl.RelativeTimeFormat(this.language, { numeric: "always" });
    if (minutes < 120) return format.format(-minutes, "minute");
    return minutes < 48 * 60 ? format.format(-Math.round(minutes / 60), "hour") : format.format(-Math.round(minutes / 1440), "day");
  }

  percent(p) {
    return new Intl.NumberFormat(this.language, { style: "percent" }).format(p);
  }
}
