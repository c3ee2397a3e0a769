/**
 * Lets the notebook of an agent at work grow on the screen: JupyterLab by itself never shows what another process writes.
 *
 * Cells are changed and added in the document that is open, rather than loading it anew, so that nobody who reads in it
 * is thrown back to its top.
 */

import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Contents } from '@jupyterlab/services';
import type { ICell, INotebookContent } from '@jupyterlab/nbformat';
import type { ISharedCodeCell, ISharedNotebook } from '@jupyter/ydoc';
import { JSONExt, type PartialJSONValue } from '@lumino/coreutils';

/** Milliseconds between two looks at a notebook that an agent works in, and at one whose agent has ended. */
const SOON = 400;
const SELDOM = 3000;

/** Milliseconds until what has changed is rendered; Markdown waits for a second of peace. */
const RENDERING = 2500;

/** Follow the notebook of this panel until it is closed, if it is the record of an agent. */
export function follow(panel: NotebookPanel, contents: Contents.IManager): void {
  const follower = new Follower(panel, contents);
  panel.disposed.connect(() => follower.stop());
  void panel.context.ready.then(() => follower.look());
}

class Follower {
  private timer: number | undefined;
  private seen = '';
  private ended = false;
  private shown: string | undefined;

  constructor(
    private readonly panel: NotebookPanel,
    private readonly contents: Contents.IManager
  ) {}

  stop(): void {
    window.clearTimeout(this.timer);
  }

  /** Look whether the file has changed, show what has, and come back. */
  async look(): Promise<void> {
    try {
      await this.catchUp();
    } catch (error) {
      console.debug('rlm-nb: this notebook cannot be followed for the moment', error);
    }
    if (!this.panel.isDisposed) {
      this.timer = window.setTimeout(() => void this.look(), this.ended ? SELDOM : SOON);
    }
  }

  private async catchUp(): Promise<void> {
    if (!this.mayFollow()) {
      return;
    }
    const path = this.panel.context.path;
    const file = await this.contents.get(path, { content: false });
    if (file.last_modified === this.seen) {
      return;
    }
    const model = await this.contents.get(path, { type: 'notebook', content: true });
    if (!this.mayFollow()) {
      return;
    }
    show(this.panel, model.content as INotebookContent);
    this.shown = contentOf(this.panel);
    this.seen = model.last_modified;
    this.ended = hasEnded(model.content as INotebookContent);
  }

  /** What is shared with others follows the file by itself, and what a person has changed is his. */
  private mayFollow(): boolean {
    if (this.panel.isDisposed || !this.panel.isVisible || document.hidden) {
      return false;
    }
    const model = this.panel.context.model;
    if (model.getMetadata('rlm') === undefined || model.collaborative) {
      return false;
    }
    this.shown ??= contentOf(this.panel);
    // A kernel that starts makes it dirty, too: what it is called goes into the metadata.
    return !model.dirty || this.shown === contentOf(this.panel);
  }
}

/** The cells without their metadata: what a person changes, or runs. */
function contentOf(panel: NotebookPanel): string {
  const cells = panel.context.model.sharedModel.cells.map(cell => cell.toJSON() as ICell);
  return JSON.stringify(cells.map(cell => [cell.source, cell.outputs, cell.execution_count]));
}

function hasEnded(notebook: INotebookContent): boolean {
  const rlm = notebook.metadata.rlm as { status?: string } | undefined;
  return rlm?.status !== undefined && rlm.status !== 'running';
}

/** Make what is shown what the file says; where a person reads stays where it is. */
function show(panel: NotebookPanel, notebook: INotebookContent): void {
  const model = panel.context.model;
  holdStill(panel);
  // It cannot be undone, as nobody did it.
  model.sharedModel.transact(() => change(model.sharedModel as ISharedNotebook, notebook), false);
  model.dirty = false;
}

function change(shared: ISharedNotebook, notebook: INotebookContent): void {
  notebook.cells.forEach((cell, index) => {
    if (index >= shared.cells.length) {
      shared.insertCell(index, cell as never);
    } else if (!isEqual(shared.getCell(index).toJSON() as ICell, cell)) {
      changeCell(shared, index, cell);
    }
  });
  if (shared.cells.length > notebook.cells.length) {
    shared.deleteCellRange(notebook.cells.length, shared.cells.length);
  }
  if (!JSONExt.deepEqual(shared.metadata as PartialJSONValue, notebook.metadata as PartialJSONValue)) {
    shared.setMetadata(notebook.metadata as never);
  }
}

/** In its place where that can be; another cell in its stead where it cannot. */
function changeCell(shared: ISharedNotebook, index: number, cell: ICell): void {
  const old = shared.getCell(index);
  if (old.id !== cell.id || old.cell_type !== cell.cell_type) {
    shared.deleteCell(index);
    shared.insertCell(index, cell as never);
    return;
  }
  const source = text(cell.source);
  if (old.getSource() !== source) {
    old.setSource(source);
  }
  old.setMetadata({ ...cell.metadata } as never);
  if (old.cell_type === 'code') {
    const code = old as ISharedCodeCell;
    const outputs = (cell.outputs ?? []) as never[];
    if (!JSONExt.deepEqual(code.getOutputs() as never, outputs as never)) {
      code.setOutputs(outputs);
    }
    code.execution_count = (cell.execution_count ?? null) as number | null;
  }
}

function isEqual(shown: ICell, cell: ICell): boolean {
  return JSONExt.deepEqual(
    { ...shown, source: text(shown.source) } as never,
    { ...cell, source: text(cell.source) } as never
  );
}

function text(source: string | string[]): string {
  return Array.isArray(source) ? source.join('') : source;
}

/** Keep the first cell that is seen where it is, until all is rendered, or the reader scrolls. */
function holdStill(panel: NotebookPanel): void {
  const scroller = panel.content.outerNode;
  const top = scroller.getBoundingClientRect().top;
  const first = panel.content.widgets.find(
    ({ node }) => node.isConnected && node.getBoundingClientRect().bottom > top
  );
  if (first === undefined) {
    return;
  }
  const before = first.node.getBoundingClientRect().top;
  const end = performance.now() + RENDERING;
  const released = new AbortController();
  for (const act of ['wheel', 'keydown', 'pointerdown', 'touchstart']) {
    panel.node.addEventListener(act, () => released.abort(), { signal: released.signal, capture: true, passive: true });
  }
  const hold = (): void => {
    if (released.signal.aborted || !first.node.isConnected || performance.now() > end) {
      released.abort();
      return;
    }
    scroller.scrollTop += first.node.getBoundingClientRect().top - before;
    window.requestAnimationFrame(hold);
  };
  window.requestAnimationFrame(hold);
}
