// Keeps the page and its model on this device: after the first visit it needs no network.
//
// All files of a folder belong together. A new set is fetched whole, waits until no window shows the old one, and then
// takes its place: a page of one version never runs the model of another.

const VERSION = "VERSION OF ALL FILES"; // written by `smallhold bundle page`: this file changes when any of them does
const FILES = [
  "./", "index.html", "style.css", "icon.svg", "app.webmanifest", "page.js", "worker.js", "smallhold_engine.js",
  "smallhold_engine.wasm", "bundle.zip", "keys.pem", "patient.json",
  ...[], // MORE FILES, written too
];
const OURS = `smallhold ${registration.scope} `; // other folders of this server have caches of their own
const CACHE = OURS + VERSION;

addEventListener("install", (event) => {
  // Past the browser's own cache, which may hold some of an older set.
  const requests = FILES.map((name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

addEventListener("activate", (event) => {
  const remove = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await clients.claim();
  };
  event.waitUntil(remove());
});

addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(caches.match(event.request, { cacheName: CACHE }).then((found) => found ?? fetch(event.request)));
});
