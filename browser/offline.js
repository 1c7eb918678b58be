// Keeps the page and its model on this device: after the first visit it needs no network.

const FILES = [
  "./", "index.html", "style.css", "icon.svg", "app.webmanifest", "page.js", "worker.js", "smallhold_engine.js",
  "smallhold_engine.wasm", "bundle.zip", "keys.pem", "patient.json",
];
const CACHE = `smallhold-${new URL(location.href).searchParams.get("version")}`;

addEventListener("install", (event) => {
  // All or nothing: a page of one version never runs the model of another.
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  const remove = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith("smallhold-") && name !== CACHE).map((name) => caches.delete(name)));
    await clients.claim();
  };
  event.waitUntil(remove());
});

addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(caches.match(event.request, { cacheName: CACHE }).then((found) => found ?? fetch(event.request)));
});
