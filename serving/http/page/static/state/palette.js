/** Colours of entities, told apart on dark and on light images. */

const COLOURS = [
  "#ff6b6b", "#4dabf7", "#ffd43b", "#69db7c", "#da77f2", "#ffa94d",
  "#3bc9db", "#f783ac", "#a9e34b", "#748ffc", "#e599f7", "#38d9a9",
];

/** Colour of the n-th entity. */
export const colourOf = (index) => COLOURS[index % COLOURS.length];
