/** The playground: builds its parts and connects them. */

import { ClassesPanel } from "./panels/classes.js";
import { helpDialog, openToken, themeSwitch, tokenDialog } from "./panels/dialogs.js";
import { EntityList } from "./panels/entities.js";
import { everythingPanel } from "./panels/everything.js";
import { exportPanel } from "./panels/exports.js";
import { keysOf, listenToKeys } from "./panels/keyboard.js";
import { showError } from "./panels/messages.js";
import { optionsPanel } from "./panels/options.js";
import { Start } from "./panels/start.js";
import { timingsBar } from "./panels/timings.js";
import { toolbars } from "./panels/tools.js";
import { describe } from "./service/api.js";
import { Segmenter } from "./service/segmenter.js";
import { Entities } from "./state/entities.js";
import { initialState, Store } from "./state/store.js";
import { Cursor } from "./view/cursor.js";
import { Overlay } from "./view/overlay.js";
import { Pointer } from "./view/pointer.js";
import { Viewer } from "./view/viewer.js";

const AGAIN_MS = 5000;

themeSwitch();
const store = new Store(initialState);
const entities = new Entities(store);
const segmenter = new Segmenter(store, entities, report);
const viewer = new Viewer(document.getElementById("viewer"));
const cursor = new Cursor(viewer, store, entities, segmenter);
new Overlay(viewer, store);
new Pointer(viewer, store, entities, segmenter);
new Start(store, viewer, segmenter);
new EntityList(store, entities);
const classes = new ClassesPanel(store, segmenter);
toolbars(store, entities, viewer, segmenter.lane);
optionsPanel(store, entities, segmenter);
everythingPanel(store, segmenter);
exportPanel(store);
timingsBar(store);
tokenDialog(connect);
const keys = keysOf({ store, entities, cursor, viewer, segmenter });
helpDialog(keys);
listenToKeys(keys);
connect();

/** Learn which model answers, and which classes it knows; where the service is away, once it is back. */
async function connect(isAgain = false) {
  try {
    store.set({ service: store.state.service ?? (await describe()) });
    await classes.load();
  } catch (error) {
    const asksForToken = error.code === "UNAUTHENTICATED";
    if (asksForToken || !isAgain) report(error);
    if (!asksForToken) setTimeout(connect, AGAIN_MS, true);
  }
}

/** Show an error; where the server asks for a token, ask the user. */
function report(error) {
  if (error.code === "UNAUTHENTICATED") openToken(error.message);
  else showError(error);
}
