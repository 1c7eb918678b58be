// Elements without markup in strings: text from the ward can only ever become text.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Replace what an element holds; whoever had the focus there, by data-key, keeps it.
export function put(element, ...children) {
  const active = document.activeElement;
  const key = element.contains(active) ? active.dataset.key : undefined;
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (key !== undefined) {
    for (const item of element.querySelectorAll("[data-key]")) {
      if (item.dataset.key === key) { item.focus({ preventScroll: true }); break; }
    }
  }
}

// A dialog with fields; resolves with their values, or null when it was left. `send` may fail: it then stays open.
export function ask({ title, text, fields = [], confirm, cancel, grave = false, send }) {
  return new Promise((resolve) => {
    const error = h("p", { class: "error", role: "alert" });
    const inputs = fields.map((field) => {
      const common = { name: field.name, required: field.required, "aria-describedby": field.hint ? `hint-${field.name}` : null };
      const input = field.options
        ? h("select", common, field.options.map(([value, label]) => h("option", { value }, label)))
        : field.type === "textarea"
          ? h("textarea", { ...common, maxlength: field.most })
          : h("input", { ...common, type: field.type || "text", maxlength: field.most, min: field.min, max: field.max,
              autocomplete: field.autocomplete || "off", placeholder: field.placeholder });
      if (field.value !== undefined) input.value = field.value;
      return [h("label", {}, h("span", {}, field.label), input),
        field.hint ? h("p", { class: "soft", id: `hint-${field.name}` }, field.hint) : null];
    });
    const yes = h("button", { class: grave ? "grave" : "main", type: "submit" }, confirm);
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), text ? h("p", {}, text) : null, inputs, error,
      h("div", { class: "row" }, yes, h("button", { type: "button", onclick: () => dialog.close() }, cancel)));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      yes.disabled = true;
      error.textContent = "";
      try {
        if (send) await send(values);
        result = values;
        dialog.close();
      } catch (failure) {
        error.textContent = failure.message;
        yes.disabled = false;
      }
    });
    const before = document.activeElement;
    dialog.addEventListener("close", () => { dialog.remove(); if (before && before.isConnected) before.focus(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
