// Keeps the page, its words and its model on this device. What the server says of a patient is never kept here.
//
// All files belong to one version. A new set is fetched whole, waits until no window shows the old one, and takes its
// place, so that a page of one version never runs the model of another.

const VERSION = "VERSION OF ALL FILES"; // written by the server: this file changes when any of them does
const FILES = ["FILES"]; // written too
const OURS = `smallhold ${registration.scope} `;
const CACHE = OURS + VERSION;

const forget = async (isToGo) => {
  const names = (await caches.keys()).filter((name) => name.startsWith(OURS) && isToGo(name));
  await Promise.all(names.map((name) => caches.delete(name)));
};

addEventListener("install", (event) => {
  const requests = FILES.map((name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

addEventListener("activate", (event) => {
  event.waitUntil(forget((name) => name !== CACHE).then(() => clients.claim()));
});

addEventListener("message", (event) => {
  if (event.data === "forget") event.waitUntil(forget(() => true).then(() => event.ports[0]?.postMessage("done")));
});

addEventListener("fetch", (event) => {
  const { pathname } = new URL(event.request.url);
  const isOurs = event.request.url.startsWith(registration.scope);
  if (event.request.method !== "GET" || !isOurs || pathname.includes("/api/")) return;
  event.respondWith(
    caches
      .match(event.request, { cacheName: CACHE, ignoreSearch: event.request.mode === "navigate" })
      .then((found) => found ?? fetch(event.request)),
  );
});
