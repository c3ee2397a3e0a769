"use strict";(self.rspackChunkrlm_nb=self.rspackChunkrlm_nb||[]).push([[266],{646(r,e,t){var o=t(601),n=t.n(o),a=t(314),l=(t.n(a))()(n());l.push([r.id,`.rlm-Panel {
  display: flex;
  flex-direction: column;
  gap: 8px;
  padding: 8px;
  overflow-y: auto;
  min-width: 260px;
  background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1);
  font-size: var(--jp-ui-font-size1);
}

.rlm-Panel ul {
  list-style: none;
  margin: 0;
  padding: 0;
}

.rlm-Panel p {
  margin: 4px 0;
}

.rlm-Panel button:not(.jp-mod-styled) {
  border: none;
  background: none;
  color: inherit;
  font: inherit;
  cursor: pointer;
}

.rlm-Buttons {
  display: inline-flex;
  gap: 4px;
  margin-left: auto;
}

.rlm-Panel .rlm-Buttons button:not(.jp-mod-styled) {
  border: 1px solid var(--jp-border-color1);
  border-radius: 2px;
  padding: 0 6px;
}

.rlm-Panel button.rlm-Name {
  padding: 0;
  color: var(--jp-content-link-color);
}

.rlm-Runs button {
  display: grid;
  grid-template-columns: 1.2em 1fr auto;
  width: 100%;
  padding: 4px;
  text-align: left;
}

.rlm-Runs .rlm-Task {
  grid-column: 2 / 4;
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.rlm-Runs button:hover,
.rlm-mod-chosen {
  background: var(--jp-layout-color2);
}

.rlm-Task,
.rlm-Hint {
  color: var(--jp-ui-font-color2);
  overflow-wrap: anywhere;
}

.rlm-Run {
  border: 1px solid var(--jp-border-color2);
  border-radius: 2px;
  padding: 8px;
}

.rlm-Run > .rlm-Task {
  max-height: 8em;
  overflow-y: auto;
  white-space: pre-wrap;
}

.rlm-Run header,
.rlm-Agent {
  display: flex;
  flex-wrap: wrap;
  align-items: center;
  gap: 6px;
}

.rlm-Agents {
  padding-top: 4px;
}

.rlm-Agents ul {
  margin-left: 7px;
  padding-left: 10px;
  border-left: 1px solid var(--jp-border-color2);
}

.rlm-Agent {
  padding: 2px 0;
}

.rlm-Status {
  color: var(--jp-error-color1);
}

.rlm-Status[data-status='running'] {
  color: var(--jp-info-color1);
}

.rlm-Status[data-status='completed'] {
  color: var(--jp-success-color1);
}

.rlm-Status[data-status='partial'] {
  color: var(--jp-warn-color1);
}

.rlm-Bar {
  display: grid;
  grid-template-columns: 6em 1fr auto;
  align-items: center;
  gap: 6px;
  font-size: var(--jp-ui-font-size0);
}

.rlm-Bar > div {
  display: flex;
  height: 6px;
  overflow: hidden;
  border-radius: 3px;
  background: var(--jp-layout-color3);
}

.rlm-Bar i {
  background: var(--jp-brand-color1);
}

.rlm-Bar i.rlm-mod-reserved {
  background: var(--jp-brand-color3);
}

.rlm-Waiting {
  margin: 6px 0;
  padding: 6px;
  border-left: 3px solid var(--jp-warn-color1);
  background: var(--jp-layout-color2);
}

.rlm-Waiting pre {
  max-height: 16em;
  overflow: auto;
  white-space: pre-wrap;
  overflow-wrap: anywhere;
}

.rlm-Panel textarea,
.rlm-Waiting > input {
  box-sizing: border-box;
  width: 100%;
  margin: 4px 0;
}

.rlm-Waiting textarea {
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
}

.rlm-Begin label {
  display: block;
  margin: 4px 0;
}

.rlm-Begin textarea {
  min-height: 5em;
}

.rlm-Trouble {
  padding: 6px;
  border-left: 3px solid var(--jp-error-color1);
  overflow-wrap: anywhere;
}
`,""]),t.d(e,{},{A:l})},314(r){r.exports=function(r){var e=[];return e.toString=function(){return this.map(function(e){var t="",o=void 0!==e[5];return e[4]&&(t+="@supports (".concat(e[4],") {")),e[2]&&(t+="@media ".concat(e[2]," {")),o&&(t+="@layer".concat(e[5].length>0?" ".concat(e[5]):""," {")),t+=r(e),o&&(t+="}"),e[2]&&(t+="}"),e[4]&&(t+="}"),t}).join("")},e.i=function(r,t,o,n,a){"string"==typeof r&&(r=[[null,r,void 0]]);var l={};if(o)for(var i=0;i<this.length;i++){var p=this[i][0];null!=p&&(l[p]=!0)}for(var s=0;s<r.length;s++){var c=[].concat(r[s]);o&&l[c[0]]||(void 0!==a&&(void 0===c[5]||(c[1]="@layer".concat(c[5].length>0?" ".concat(c[5]):""," {").concat(c[1],"}")),c[5]=a),t&&(c[2]&&(c[1]="@media ".concat(c[2]," {").concat(c[1],"}")),c[2]=t),n&&(c[4]?(c[1]="@supports (".concat(c[4],") {").concat(c[1],"}"),c[4]=n):c[4]="".concat(n)),e.push(c))}},e}},601(r){r.exports=function(r){return r[1]}},665(r,e,t){t.r(e);var o=t(72),n=t.n(o),a=t(825),l=t.n(a),i=t(659),p=t.n(i),s=t(56),c=t.n(s),d=t(540),u=t.n(d),m=t(113),f=t.n(m),v=t(646),g={};g.styleTagTransform=f(),g.setAttributes=c(),g.insert=p().bind(null,"head"),g.domAPI=l(),g.insertStyleElement=u(),n()(v.A,g);let h=v.A&&v.A.locals?v.A.locals:void 0;t.d(e,{},{default:h})},72(r){var e=[];function t(r){for(var t=-1,o=0;o<e.length;o++)if(e[o].identifier===r){t=o;break}return t}function o(r,o){for(var n={},a=[],l=0;l<r.length;l++){var i=r[l],p=o.base?i[0]+o.base:i[0],s=n[p]||0,c="".concat(p," ").concat(s);n[p]=s+1;var d=t(c),u={css:i[1],media:i[2],sourceMap:i[3],supports:i[4],layer:i[5]};if(-1!==d)e[d].references++,e[d].updater(u);else{var m=function(r,e){var t=e.domAPI(e);return t.update(r),function(e){e?(e.css!==r.css||e.media!==r.media||e.sourceMap!==r.sourceMap||e.supports!==r.supports||e.layer!==r.layer)&&t.update(r=e):t.remove()}}(u,o);o.byIndex=l,e.splice(l,0,{identifier:c,updater:m,references:1})}a.push(c)}return a}r.exports=function(r,n){var a=o(r=r||[],n=n||{});return function(r){r=r||[];for(var l=0;l<a.length;l++){var i=t(a[l]);e[i].references--}for(var p=o(r,n),s=0;s<a.length;s++){var c=t(a[s]);0===e[c].references&&(e[c].updater(),e.splice(c,1))}a=p}}},659(r){var e={};r.exports=function(r,t){var o=function(r){if(void 0===e[r]){var t=document.querySelector(r);if(window.HTMLIFrameElement&&t instanceof window.HTMLIFrameElement)try{t=t.contentDocument.head}catch(r){t=null}e[r]=t}return e[r]}(r);if(!o)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");o.appendChild(t)}},540(r){r.exports=function(r){var e=document.createElement("style");return r.setAttributes(e,r.attributes),r.insert(e,r.options),e}},56(r,e,t){r.exports=function(r){var e=t.nc;e&&r.setAttribute("nonce",e)}},825(r){r.exports=function(r){if("u"<typeof document)return{update:function(){},remove:function(){}};var e=r.insertStyleElement(r);return{update:function(t){var o,n,a;o="",t.supports&&(o+="@supports (".concat(t.supports,") {")),t.media&&(o+="@media ".concat(t.media," {")),(n=void 0!==t.layer)&&(o+="@layer".concat(t.layer.length>0?" ".concat(t.layer):""," {")),o+=t.css,n&&(o+="}"),t.media&&(o+="}"),t.supports&&(o+="}"),(a=t.sourceMap)&&"u">typeof btoa&&(o+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(a))))," */")),r.styleTagTransform(o,e,r.options)},remove:function(){var r;null===(r=e).parentNode||r.parentNode.removeChild(r)}}}},113(r){r.exports=function(r,e){if(e.styleSheet)e.styleSheet.cssText=r;else{for(;e.firstChild;)e.removeChild(e.firstChild);e.appendChild(document.createTextNode(r))}}}}]);