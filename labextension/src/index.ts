/** What rlm-nb adds to JupyterLab: notebooks of agents that grow while one looks, and a panel. */

import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { PathExt } from '@jupyterlab/coreutils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { INotebookTracker } from '@jupyterlab/notebook';
import { follow } from './following';
import { RunsPanel } from './panel';

const following: JupyterFrontEndPlugin<void> = {
  id: 'rlm-nb:following',
  description: 'Shows the notebooks of agents as they grow.',
  autoStart: true,
  requires: [INotebookTracker],
  activate: (app: JupyterFrontEnd, tracker: INotebookTracker) => {
    tracker.widgetAdded.connect((_, panel) => follow(panel, app.serviceManager.contents));
    tracker.forEach(panel => follow(panel, app.serviceManager.contents));
  }
};

const panel: JupyterFrontEndPlugin<void> = {
  id: 'rlm-nb:panel',
  description: 'Runs of agents in the left sidebar.',
  autoStart: true,
  optional: [IDefaultFileBrowser, ILayoutRestorer],
  activate: (app: JupyterFrontEnd, browser: IDefaultFileBrowser | null, restorer: ILayoutRestorer | null) => {
    const { commands, serviceManager } = app;
    const widget = new RunsPanel({
      settings: serviceManager.serverSettings,
      folder: () => serviceManager.contents.localPath(browser?.model.path ?? ''),
      open: path => void commands.execute('docmanager:open', { path }),
      attach: (kernel, folder) => void attach(kernel, folder)
    });
    const attach = async (kernel: string, folder: string): Promise<void> => {
      await serviceManager.kernelspecs.refreshSpecs();
      const path = PathExt.join(folder, kernel);
      await commands.execute('console:create', { path, kernelPreference: { name: kernel }, activate: true });
    };
    app.shell.add(widget, 'left', { rank: 550 });
    restorer?.add(widget, widget.id);
  }
};

export default [following, panel];
