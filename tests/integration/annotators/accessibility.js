// Lists controls without a name, and texts with less contrast than WCAG AA asks for.
() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (below, colour) => {
    context.fillStyle = `rgb(${below.join(" ")})`;
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const backgroundOf = (element) => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    return chain.reduce(over, [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const isShown = (element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    element.getClientRects().length > 0;
  const nameOf = (element) =>
    (element.getAttribute("aria-label") ?? "").trim() ||
    element.textContent.trim() ||
    [...(element.labels ?? [])].map((label) => label.textContent).join("").trim();

  const controls = [...document.querySelectorAll("button, input, select, a, summary, [role]")];
  const unnamed = controls
    .filter((element) => isShown(element) && element.matches("button, input, select, a, summary"))
    .filter((element) => !nameOf(element))
    .map((element) => element.outerHTML.slice(0, 120));

  const texts = [...document.querySelectorAll("body *")].filter(
    (element) =>
      isShown(element) &&
      !element.closest(":disabled, .hidden-text, .skip, svg") &&
      (element.matches("input[type=text], input[type=number], select") ||
        [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())),
  );
  const faint = texts.flatMap((element) => {
    const background = backgroundOf(element);
    const ratio = contrast(over(background, getComputedStyle(element).color), background);
    return ratio < 4.5 ? [`${element.outerHTML.slice(0, 100)}: ${ratio.toFixed(2)}`] : [];
  });
  return { checked: texts.length + controls.length, unnamed, faint };
}
