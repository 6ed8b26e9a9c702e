/** Small helpers for elements; texts are set as text, never as HTML. */

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {object} [properties] of the element; `data` and `aria` hold attributes of those kinds
 * @param {...(Node | string)} children
 */
export function make(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children);
  return element;
}

/** An icon of icons.svg. */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(namespace, "use");
  use.setAttribute("href", `page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon. */
export function iconButton(name, label, onClick, title = label) {
  const button = make("button", { type: "button", className: "icon-button", title }, icon(name));
  button.setAttribute("aria-label", label);
  button.addEventListener("click", onClick);
  return button;
}

/** Set a property only where it changes, so that nothing is laid out anew. */
export function update(element, property, value) {
  if (element[property] !== value) element[property] = value;
}
